# Sourced by the other scripts. Makes .venv in the repository root and keeps it in step with
# pyproject.toml and constraints.txt; installs nothing when both are as they were.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "Error: no Python 3.11 or newer with venv found" >&2
  echo "  install one (on Debian and Ubuntu: apt install python3 python3-venv) and run this again" >&2
  return 1
}

environment_state() { # a checksum of what .venv is made from
  cat pyproject.toml constraints.txt | cksum | tr ' ' -
}

installed() { # STATE EXTRAS: whether .venv was made from this state with at least these extras
  local state extras extra
  [ -f .venv/installed ] || return 1
  read -r state extras <.venv/installed
  [ "$state" = "$1" ] || return 1
  for extra in ${2//,/ }; do
    case ",$extras," in *",$extra,"*) ;; *) return 1 ;; esac
  done
}

ensure_environment() { # EXTRAS, such as cpu,offline
  local state python
  state=$(environment_state)
  if installed "$state" "$1"; then
    return
  fi
  python=$(find_python)
  echo "== making .venv with $("$python" --version), extras $1: some minutes, about 2 GB" >&2
  if ! .venv/bin/python -c '' 2>/dev/null; then
    "$python" -m venv --clear .venv
  fi
  rm -f .venv/installed
  # compat: a path in a file, not a finder that every start of Python imports first (15 ms)
  install_pinned .venv/bin/python --config-settings editable_mode=compat -e ".[$1]"
  echo "$state $1" >.venv/installed
}

install_pinned() { # PYTHON ARGUMENTS...: pip install with the tested versions
  local pip=("$1" -m pip install --disable-pip-version-check -c constraints.txt)
  if [ "$(uname -sm)" = "Linux x86_64" ]; then
    # First and alone, so that what is resolved later finds torch there and does not choose again.
    "${pip[@]}" "$(grep '^torch==' constraints.txt)"
  fi
  "${pip[@]}" "${@:2}"
}

build_wheel() { # FOLDER: builds the wheel from this checkout into it and prints its path
  # From a copy: a build in the checkout takes along what earlier builds left in build/.
  local source="$1/source"
  mkdir -p "$source"
  cp -R miner pyproject.toml README.md LICENSE "$source"
  .venv/bin/python -m pip wheel -q --disable-pip-version-check --no-deps -w "$1" "$source" >&2
  rm -r "$source"
  ls "$1"/*.whl
}
