"""The example of docs/writing-a-source.md runs and says what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.sources_support import rows

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-source.md"


def test_the_example_runs(tmp_path: Path) -> None:
    text = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"It prints `{done.stdout.strip()}`" in text
    assert rows(tmp_path / "faq.duckdb", "SELECT text FROM documents ORDER BY text") == [
        ("No.",),
        ("Yes, within 30 days.",),
    ]
