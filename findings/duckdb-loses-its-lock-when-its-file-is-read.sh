#!/usr/bin/env bash
# duckdb 2.0.0 (Linux): a connection that writes keeps other processes out with a lock on the file. When the process
# that has the connection reads the same file in another way (open, read, close: a checksum, a look at the header, a
# copy for a backup), the lock is gone, and nothing says so. Another process can then open the database to write while
# the first connection is still open. POSIX drops all record locks of a process on a file at the first close of any
# descriptor of that file.
#
# Who is hurt: whoever hashes, copies or inspects a database file beside an open connection, and relies on DuckDB's
# "one process writes" rule.
# What to do there: close the connection first, read the file in a process of its own, or hold a lock on another file.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check duckdb==2.0.0
cd "$work"
venv/bin/python - <<'PYTHON'
import subprocess
import sys

import duckdb

OTHER = """
import sys, duckdb
try:
    duckdb.connect("a.duckdb").close()
    print("opened to write")
except duckdb.IOException:
    print("refused")
"""


def other_process() -> str:
    return subprocess.run([sys.executable, "-c", OTHER], capture_output=True, text=True, check=True).stdout.strip()


print("duckdb", duckdb.__version__)
print("reading a database file in the process that has it open ends the lock of its connection")
connection = duckdb.connect("a.duckdb")
connection.execute("CREATE TABLE t AS SELECT range AS a FROM range(10)")
connection.execute("CHECKPOINT")
before = other_process()
with open("a.duckdb", "rb") as file:
    file.read(12)
after = other_process()
print("another process, while the connection is open:            ", before)
print("the same after 12 bytes of the file were read and closed: ", after)
connection.close()
sys.exit(0 if (before, after) == ("refused", "opened to write") else 1)
PYTHON
