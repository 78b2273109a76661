#!/usr/bin/env bash
# Ray 2.60 asks for a token, or not, depending on where it is started, and a script that connects by address
# does not send the token that it has:
#   1. `ray.init()` without an address makes a token in the home folder and turns token authentication on.
#   2. `ray start --head` turns it on too, untold, as soon as that file exists; without the file it is off.
#   3. `ray.init(address=...)`, in the same home folder, on the same machine, does not send the token, and
#      gives up after 20 seconds: the mode of the script is 'disabled' unless RAY_AUTH_MODE=token is set.
# So a script that worked stops to connect after somebody has once run Ray locally in that home folder.
# miner sets RAY_AUTH_MODE=token before it imports Ray (miner/engine/cluster.py).
set -euo pipefail
folder=$(mktemp -d)
export HOME=$folder/home RAY_USAGE_STATS_ENABLED=0
mkdir -p "$HOME"
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_ADDRESS || true
trap '"$folder/env/bin/ray" stop --force >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet ray==2.60.0
export PATH=$folder/env/bin:$PATH
cat >"$folder/connect.py" <<'PYTHON'
import sys

import ray

try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
    print("connected")
except Exception as error:
    print("refused:", type(error).__name__, "after:", "Authentication token is missing or incorrect"
          if "Authentication token is missing" in str(error.__cause__) else str(error))
PYTHON
start_head() {
    ray start --head --port=6389 --num-cpus=1 --include-dashboard=false --disable-usage-stats \
        --object-store-memory=100000000 --temp-dir="$folder/r" 2>&1 | grep -o "Token authentication is [a-z]*" | sed -n 1p
}
ray --version
echo "in a home folder without a token, ray start --head says: $(start_head)"
address=$(cat "$folder/r/ray_current_cluster")
before=$(python "$folder/connect.py" "$address" 2>/dev/null)
echo "a script that connects by address: $before"
ray stop --force >/dev/null 2>&1
python -c "import ray; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)" 2>/dev/null
echo "after a local ray.init() the home folder has: $(ls "$HOME/.ray")"
echo "ray start --head then says: $(start_head)"
after=$(python "$folder/connect.py" "$address" 2>/dev/null)
echo "the same script: $after"
told=$(RAY_AUTH_MODE=token python "$folder/connect.py" "$address" 2>/dev/null)
echo "the same script with RAY_AUTH_MODE=token: $told"
[[ $before == connected && $after == refused* && $told == connected ]] || { echo "this has changed"; exit 1; }
