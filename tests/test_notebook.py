"""docs/notebook.ipynb runs from its first cell to its last in a real kernel, and shows results as HTML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path("docs/notebook.ipynb")


def run(notebook: Any, folder: Path) -> list[Any]:
    """Returns the code cells after they ran in a kernel of this Python."""
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pages(cell: Any) -> list[str]:
    """Returns the HTML of a cell's outputs."""
    return [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]


@pytest.mark.slow
def test_the_notebook_runs(root: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    assert len(notebook.cells) == 15
    cells = run(notebook, tmp_path)
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


def test_a_cell_shows_a_progress_bar_and_a_script_shows_nothing(tmp_path: Path) -> None:
    script = (
        "import miner\n"
        "rows = [{'query': f'q {n % 7}', 'positive': f'text {n}'} for n in range(40)]\n"
        "miner.ingest('s.duckdb', rows, progress=ASKED)"
    )
    cell = nbformat.v4.new_code_cell
    notebook = nbformat.v4.new_notebook(
        cells=[cell(script.replace("ASKED", asked)) for asked in ("None", "False", "True")]
    )
    shown, silent, asked = run(notebook, tmp_path)
    assert any("read list" in page and "40/40 rows" in page for page in pages(shown))
    assert len(pages(silent)) == 1
    assert len(pages(asked)) == 2

    for wanted, lines in (("None", 0), ("True", 0)):
        done = subprocess.run(
            [sys.executable, "-c", script.replace("ASKED", wanted)],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert len(done.stderr.splitlines()) == lines
        assert done.stdout == ""
