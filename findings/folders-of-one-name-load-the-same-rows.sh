#!/usr/bin/env bash
# datasets 5.2.0: load_dataset(FOLDER) of a local folder with a card (README.md) that lists its data files under
# `configs` caches the rows by the last part of the folder's path and by the card: the name of the configuration and all
# that is under `configs` and `dataset_info`. It looks at neither the path nor the files, not at their names, sizes,
# times or content. Another folder of the same name, or new data in the same folder, gives the old rows without a word,
# from Parquet as from JSON lines. A folder without a card is not affected: its cache depends on path and files.
# download_mode="force_redownload" reads the new rows, but ends with NonMatchingSplitsSizesError if there are more or
# fewer of them: it compares their number with that of the old ones.
#
# Who is hurt: whoever exports a training set again, or keeps several in folders of one name (run1/triplets,
# run2/triplets), and trains on the first one for ever.
# What to do there: a description under `configs` that changes with the data, such as a checksum of the files.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$work"
HF_DATASETS_CACHE="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PYTHON'
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset
from datasets.exceptions import NonMatchingSplitsSizesError

CARD = """---
configs:
- config_name: triplets{description}
  data_files:
  - split: train
    path: data/*.parquet
---
"""


def written(folder: str, word: str, rows: int, card: str) -> str:
    """Writes a data set into a folder, new each time, in a file named after the word, and returns its path."""
    shutil.rmtree(folder, ignore_errors=True)
    data = Path(folder, "data")
    data.mkdir(parents=True)
    pq.write_table(pa.table({"text": [f"{word} {number}" for number in range(rows)]}), data / f"{word}.parquet")
    if card:
        Path(folder, "README.md").write_text(card, "utf-8")
    return str(Path(folder).absolute())


def loaded(path: str, config: str | None, **settings: str) -> tuple[str, int]:
    """Returns the first text and the number of rows loaded."""
    found = load_dataset(path, config, split="train", **settings)
    return found[0]["text"], found.num_rows


for package in ("datasets", "pyarrow"):
    print(package, version(package))
print("Folders of one name whose cards list their files load the rows of the first of them.")

sets = [("one/pairs", "apple", 3), ("two/pairs", "berry", 5), ("one/pairs", "cherry", 7)]
cards = {
    "without a card": "",
    "with equal cards": CARD.replace("{description}", ""),
    "with descriptions that differ": CARD.replace("{description}", "\n  description: {word}"),
}
print("written, one after the other:", sets)
found = {}
for title, card in cards.items():
    config = "triplets" if card else None
    found[title] = [
        loaded(written(f"{title}/{where}", word, rows, card.format(word=word)), config) for where, word, rows in sets
    ]
    print(f"loaded, {title}: {found[title]}")
latest = str(Path("with equal cards/one/pairs").absolute())
try:
    forced = str(loaded(latest, "triplets", download_mode="force_redownload"))
except NonMatchingSplitsSizesError as error:
    forced = type(error).__name__
print("loaded, with equal cards and force_redownload:", forced)

right = [("apple 0", 3), ("berry 0", 5), ("cherry 0", 7)]
expected = dict(zip(cards, (right, [("apple 0", 3)] * 3, right)))
if found != expected or forced != NonMatchingSplitsSizesError.__name__:
    sys.exit("The behaviour has changed.")
PYTHON
