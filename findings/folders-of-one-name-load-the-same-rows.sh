#!/usr/bin/env bash
# datasets 5.2.0: load_dataset(FOLDER) of a local folder with a card (README.md) that lists its data files under `configs`
# caches the rows by the last part of the folder's path and the name of the configuration, and looks at neither the path
# nor the files. Another folder of the same name, or new data in the same folder, gives the old rows without a word. A
# folder without a card is not affected: its cache depends on path and files.
#
# Who is hurt: whoever exports a training set again, or keeps several in folders of one name (run1/triplets,
# run2/triplets), and trains on the first one for ever.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$work"
HF_DATASETS_CACHE="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PYTHON'
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from datasets import load_dataset

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.jsonl
---
"""


def loaded(folder: str, word: str, rows: int, card: str) -> tuple[str, int]:
    """Writes a data set into a folder, new each time, and returns the first text and the number of rows loaded."""
    shutil.rmtree(folder, ignore_errors=True)
    data = Path(folder, "data")
    data.mkdir(parents=True)
    lines = [json.dumps({"text": f"{word} {number}"}) for number in range(rows)]
    (data / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    if card:
        Path(folder, "README.md").write_text(card, "utf-8")
    found = load_dataset(str(Path(folder).absolute()), split="train")
    return found[0]["text"], found.num_rows


for package in ("datasets", "pyarrow"):
    print(package, version(package))
print("Folders of one name whose cards list their files load the rows of the first of them.")
found = {}
for name, card in (("without", ""), ("with", CARD)):
    found[name] = [
        loaded(f"{name}/one/pairs", "apple", 3, card),
        loaded(f"{name}/two/pairs", "berry", 5, card),
        loaded(f"{name}/one/pairs", "cherry", 7, card),
    ]
    print(f"{name} a card: wrote 3 apples in one/pairs, 5 berries in two/pairs, 7 cherries in one/pairs: {found[name]}")
right = [("apple 0", 3), ("berry 0", 5), ("cherry 0", 7)]
if found != {"without": right, "with": [("apple 0", 3)] * 3}:
    sys.exit("The behaviour has changed.")
PYTHON
