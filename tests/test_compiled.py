"""Compiled functions: kept for the next process, and compiled again when their source changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = """
from typing import NamedTuple

import numpy as np

from miner.compiled import compiled


class Before(NamedTuple):
    starts: np.ndarray


@compiled
def total(index, divisor):
    return index.starts.sum() / divisor


def run():
    return float(total(Before(np.arange(4)), 2))
"""


def call(folder: Path, what: str = "module.run()", **variables: str) -> str:
    """What a new process prints."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import module; print({what})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbi"))


def test_a_function_is_kept_and_belongs_to_its_source(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(SOURCE)
    assert call(tmp_path) == "3.0"
    (first,) = kept(tmp_path)
    assert call(tmp_path, "(module.run(), module.total.stats.cache_hits.total())") == "(3.0, 1)"
    module.write_text(SOURCE.replace("Before", "After_"))
    assert call(tmp_path) == "3.0"
    assert first in kept(tmp_path)
    assert len(kept(tmp_path)) == 2


def test_division_by_zero_is_infinite(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SOURCE)
    assert call(tmp_path, "module.total(module.Before(np := module.np.arange(4)), 0.0)") == "inf"


def test_a_folder_that_the_user_sets_is_used(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "module.py").write_text(SOURCE)
    assert call(source, NUMBA_CACHE_DIR=str(chosen)) == "3.0"
    assert len(kept(chosen)) == 1
    assert kept(source) == []
