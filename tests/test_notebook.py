"""docs/notebook.ipynb runs from its first cell to its last in a real kernel, and shows what it stores."""

from __future__ import annotations

import importlib.util
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

NOTEBOOK = Path("docs/notebook.ipynb")
OF_A_TRAINING = ("report =", "(evaluation,)")
"""How cells begin whose figures depend on the processor."""


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    """Returns scripts/notebook.py."""
    spec = importlib.util.spec_from_file_location("notebook_script", root / "scripts" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, notebook: Any, folder: Path) -> list[Any]:
    """Returns the code cells after they ran in a kernel of this Python."""
    return [cell for cell in script.executed(notebook, folder).cells if cell.cell_type == "code"]


def without_figures(results: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{kind: re.sub(r"\d+", "#", text) for kind, text in one.items()} for one in results]


def pages(cell: Any) -> list[str]:
    """Returns the HTML of a cell's outputs."""
    return [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_stores(root: Path, script: ModuleType, tmp_path: Path) -> None:
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    assert len(notebook.cells) == 15
    stored = [script.results(cell) for cell in notebook.cells if cell.cell_type == "code"]
    made_with = notebook.metadata.language_info.version
    cells = run(script, notebook, tmp_path)
    for cell, before in zip(cells, stored, strict=True):
        shown = script.results(cell)
        assert [one.keys() for one in shown] == [one.keys() for one in before], cell.source
        if made_with == platform.python_version():  # another Python has other help texts
            if cell.source.startswith(OF_A_TRAINING):
                shown, before = without_figures(shown), without_figures(before)
            assert shown == before, "run scripts/notebook.py"
    by_source = {cell.source: pages(cell) for cell in cells}
    mined = next(found for source, found in by_source.items() if source.startswith("naive = store.mine"))
    assert any("<table>" in page and "coverage" in page for page in mined)
    audited = next(found for source, found in by_source.items() if source.startswith("naive.audit"))
    assert any("hidden-positive rate" in page for page in audited)
    trained = next(found for source, found in by_source.items() if source.startswith("report ="))
    assert any("training" in page and "steps" in page for page in trained), "no progress bar"
    assert any("dev nDCG@10" in page for page in trained)
    for cell in cells[1:]:  # datasets warns at its import if there are no widgets
        assert [output.text for output in cell.outputs if output.output_type == "stream"] == []


def test_a_stored_notebook_has_results_alone(root: Path) -> None:
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(outputs) == 9
    assert {output.output_type for output in outputs} == {"execute_result"}
    assert "/tmp" not in (root / NOTEBOOK).read_text("utf-8")


def test_a_cell_shows_a_progress_bar_and_a_script_shows_nothing(script: ModuleType, tmp_path: Path) -> None:
    source = (
        "import miner\n"
        "rows = [{'query': f'q {n % 7}', 'positive': f'text {n}'} for n in range(40)]\n"
        "miner.ingest('s.duckdb', rows, progress=ASKED)"
    )
    cell = nbformat.v4.new_code_cell
    notebook = nbformat.v4.new_notebook(
        cells=[cell(source.replace("ASKED", requested)) for requested in ("None", "False", "True")]
    )
    shown, silent, requested = run(script, notebook, tmp_path)
    assert any("read list" in page and "40/40 rows" in page for page in pages(shown))
    assert len(pages(silent)) == 1
    assert len(pages(requested)) == 2

    for wanted, lines in (("None", 0), ("True", 0)):
        done = subprocess.run(
            [sys.executable, "-c", source.replace("ASKED", wanted)],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert len(done.stderr.splitlines()) == lines
        assert done.stdout == ""
