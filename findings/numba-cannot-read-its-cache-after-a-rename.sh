#!/usr/bin/env bash
# numba 0.68.1: a function compiled with cache=True that takes a NamedTuple cannot be called once that class has
# another name, until somebody deletes the files in __pycache__. numba's documentation says that a changed source file
# is compiled again. But the index of what it kept is read in one piece, types of arguments included, before numba
# looks at whether the source has changed; and reading it needs the class that is gone.
#
# Who is hurt: whoever upgrades or edits a package whose compiled functions take named tuples (indexes, queries, lists
# of postings): every call ends with an AttributeError about a name that the code no longer has, because pip leaves
# numba's files in __pycache__ behind. A class that moves to another module does the same.
# What to do there: keep what is compiled in a folder named by the content of the source (numba.config.CACHE_DIR while
# the function is decorated), or pass plain tuples.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check numba==0.68.1 llvmlite==0.50.0 numpy==2.4.6
cd "$work"
cat > postings.py <<'PYTHON'
from typing import NamedTuple

import numba
import numpy as np


class Before(NamedTuple):
    starts: np.ndarray


@numba.njit(cache=True)
def total(index):
    return index.starts.sum()


def run():
    return int(total(Before(np.arange(4))))
PYTHON
venv/bin/python -c 'import numba, numpy, postings; print("numba", numba.__version__, "numpy", numpy.__version__); print("before:", postings.run())'
sed -i 's/Before/After_/' postings.py  # the same length, so that only the content changes
sed -i '$a # edited' postings.py
echo "after the class has another name:"
if venv/bin/python -c 'import postings; print(postings.run())' 2> error; then
    echo "CHANGED: the function was compiled again"
    exit 1
fi
tail -n 1 error
grep -q "AttributeError.*Before" error || { echo "CHANGED: another error"; exit 1; }
rm -r __pycache__
echo "without __pycache__: $(venv/bin/python -c 'import postings; print(postings.run())')"
