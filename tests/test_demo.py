"""`miner demo`, on a few modules: every step says what it does, the store and the results stay."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from miner.cli import demo


@pytest.mark.slow
def test_the_demo_goes_to_the_end_and_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MODULES", ("calendar", "contextlib", "email", "textwrap"))
    monkeypatch.setattr(demo, "TESTED", ("textwrap",))
    out = tmp_path / "demo"
    shown = CliRunner().invoke(demo.command, [str(out), "--queries", "30"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert re.findall(r"^\[(\d)/6\] ", shown.stderr, re.MULTILINE) == list("123456")
    rates = re.findall(r"^      (naive|filtered) .*?(\d[\d.]*) % \[", shown.stderr, re.MULTILINE)
    assert [name for name, _ in rates] == ["naive", "filtered"]
    assert float(rates[0][1]) > float(rates[1][1])
    first_screen = shown.stderr.split("[5/6]")[0]
    assert "false negative  " in first_screen
    assert len(first_screen.splitlines()) <= 24
    assert "hard-filtered − easy" in shown.stderr
    closing = shown.stdout.rstrip().split("\n\n")[-1].splitlines()
    assert len(closing) == 3
    assert all(line.startswith("miner ") for line in closing)
    found = json.loads((out / "bench" / "results.json").read_text("utf-8"))
    assert [arm["arm"] for arm in found["arms"]] == ["easy", "hard", "hard-filtered"]
    assert {path.name for path in out.iterdir()} >= {"demo.duckdb", "bench", "report.html"}
    page = (out / "report.html").read_text("utf-8")
    assert "Compared with run naive" in page
    assert "hard-filtered, 30 triplets" in page
