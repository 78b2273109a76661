#!/usr/bin/env python3
"""Runs docs/notebook.ipynb and stores what its cells show, without what differs from run to run."""

from __future__ import annotations

import platform
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"
_FOLDER = re.compile(r"/[^\s=]*/tmp[a-z0-9_]{8}/")
"""The folder among the temporary files that the notebook works in."""


def executed(notebook: Any, folder: Path) -> Any:
    """Returns the notebook after its cells ran in a kernel of this Python, in a folder."""
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()


def results(cell: Any) -> list[dict[str, str]]:
    """Returns the results of a cell: no progress bars, no warnings, and no folders of this run."""
    return [
        {kind: _FOLDER.sub("", text) for kind, text in output.data.items() if kind.startswith("text/")}
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]


def stripped(notebook: Any) -> Any:
    """Returns an executed notebook with the results alone, and with the version of Python."""
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            number += 1
            shown = results(cell)
            cell.execution_count, cell.metadata = number, {}
            cell.outputs = [
                nbformat.v4.new_output("execute_result", data, execution_count=number) for data in shown
            ]
    notebook.metadata.language_info = {"name": "python", "version": platform.python_version()}
    return notebook


def main() -> None:
    """Writes the notebook."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(nbformat.read(NOTEBOOK, as_version=4), Path(folder))
    nbformat.write(stripped(notebook), NOTEBOOK)


if __name__ == "__main__":
    main()
