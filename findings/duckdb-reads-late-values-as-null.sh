#!/usr/bin/env bash
# duckdb 2.0.0 and 2.0.1: a field of JSON lines that is null in each of the first 20,480 rows is read as null in all
# rows. read_json takes its types from that many rows; a field that is null there now gets the type "NULL", and every
# text, number, list or object that follows in it becomes NULL. So does a member of an object, on its own or in a list:
# [{"id": ..., "score": null}]. CREATE TABLE and COPY TO Parquet keep the loss. No error, no warning. duckdb 1.5.6 gives
# such a field the type JSON and returns each value. Of several files, only the first 32 are sampled: a field that is
# null in them is lost in the others.
#
# Who is hurt: whoever reads training data that begins with rows without negatives or teacher scores and goes on with
# rows that have them, as sets joined one after another do. All negatives or scores are gone; the rows are all there.
# What to do there: read_json(..., sample_size = -1).
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > count.py <<'PYTHON'
import json
import sys
from pathlib import Path

import duckdb


def write(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def row(number: int, full: bool) -> dict:
    scored = {"id": "d1", "score": 0.5 if full else None}
    negatives, scores = (["dogs bark"], [0.9, 0.1]) if full else (None, None)
    return {"query": f"q{number}", "negatives": negatives, "scores": scores, "hits": [scored]}


FIRST, LATER = 20_480, 5
write("rows.jsonl", [row(number, number >= FIRST) for number in range(FIRST + LATER)])
write("fewer.jsonl", [row(number, number >= FIRST - 1) for number in range(FIRST + LATER)])
Path("files").mkdir(exist_ok=True)
for number in range(40):
    write(f"files/{number:02}.jsonl", [{"query": "q", "negative": "dogs bark" if number > 31 else None}])
COUNTS = "SELECT count(*), count(negatives), count(scores), count(hits[1].score) FROM "


def value(statement: str) -> object:
    try:
        return duckdb.sql(statement).fetchall()
    except duckdb.Error as error:
        return type(error).__name__


duckdb.sql("COPY (FROM 'rows.jsonl') TO 'rows.parquet'")
found = {
    "types": value("SELECT column_type FROM (DESCRIBE FROM 'rows.jsonl')"),
    "rows, negatives, scores, scores in hits": value(COUNTS + "'rows.jsonl'"),
    "the same from Parquet written by COPY": value(COUNTS + "'rows.parquet'"),
    "with a value in row 20,480 of them": value(COUNTS + "'fewer.jsonl'"),
    "with sample_size = -1": value(COUNTS + "read_json('rows.jsonl', sample_size = -1)"),
    "40 files, 8 of them with a negative": value("SELECT count(*), count(negative) FROM 'files/*.jsonl'"),
}
print("duckdb", duckdb.__version__)
for name, content in found.items():
    print(f"    {name}: {content}")
late, files = found["rows, negatives, scores, scores in hits"], found["40 files, 8 of them with a negative"]
rows = FIRST + LATER
right = [(rows, LATER, LATER, LATER)]
lost = [(rows, 0, 0, 0)]
good = found["with sample_size = -1"] == right and found["with a value in row 20,480 of them"] == [
    (rows, LATER + 1, LATER + 1, LATER + 1)
]
copied = found["the same from Parquet written by COPY"]
expected = (lost, lost, [(40, 0)]) if sys.argv[1] == "lost" else (right, right, [(40, 8)])
sys.exit(0 if good and (late, copied, files) == expected else 1)
PYTHON
echo "A field that is null in the first 20,480 rows of JSON lines is read as null in all rows."
as_described=yes
for version in 2.0.0 2.0.1 1.5.6; do
    python3 -m venv "venv-$version"
    "venv-$version/bin/python" -m pip install -q --disable-pip-version-check "duckdb==$version"
    expected=lost
    if [ "$version" = 1.5.6 ]; then expected=kept; fi
    "venv-$version/bin/python" count.py "$expected" || as_described=no
done
if [ "$as_described" = no ]; then echo CHANGED; exit 1; fi
echo "as described"
