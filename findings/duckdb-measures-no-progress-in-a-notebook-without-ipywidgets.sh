#!/usr/bin/env bash
# duckdb 2.0.0: SET enable_progress_bar = true raises InvalidInputException in a Jupyter kernel that has no ipywidgets,
# also if nothing is to be printed; the same statement works in a script. query_progress() is measured only while the
# setting is on, so that a program that shows DuckDB's progress in a display of its own works everywhere but there.
#
# Who is hurt: a library that turns the setting on to read query_progress() from another thread, as its own bar for
# long statements. Its tests, which are scripts, pass; in a notebook its first call ends with an error about a package
# that it does not use.
# What to do there: go on without progress if the statement raises InvalidInputException, or depend on ipywidgets.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check duckdb==2.0.0 ipykernel==7.1.0 nbclient==0.10.2
cd "$work"
venv/bin/python - <<'PYTHON'
import sys

import duckdb
import nbformat
from nbclient import NotebookClient

STATEMENTS = """
import duckdb
connection = duckdb.connect()
try:
    connection.execute("SET enable_progress_bar_print = false")
    connection.execute("SET enable_progress_bar = true")
    print("accepted")
except duckdb.Error as error:
    print(type(error).__name__ + ":", error)
"""
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(STATEMENTS)])
NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
in_notebook = "".join(output.get("text", "") for output in notebook.cells[0].outputs).strip()

connection = duckdb.connect()
connection.execute("SET enable_progress_bar_print = false")
connection.execute("SET enable_progress_bar = true")
print("duckdb", duckdb.__version__)
print("SET enable_progress_bar = true, with printing turned off")
print("in a script:   accepted")
print("in a notebook:", in_notebook)
as_described = in_notebook.startswith("InvalidInputException") and "ipywidgets" in in_notebook
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
