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
    monkeypatch.setattr(demo, "MODULES", ("calendar", "contextlib", "textwrap"))
    monkeypatch.setattr(demo, "TESTED", ("textwrap",))
    monkeypatch.setattr(demo, "RERANKER_QUERIES", 10)
    out = tmp_path / "demo"
    shown = CliRunner().invoke(demo.command, [str(out), "--queries", "30"], catch_exceptions=False)
    assert shown.exit_code == 0
    steps = re.findall(r"^\[(\d)/8\] ", shown.stderr, re.MULTILINE)
    assert steps == list("12345678")
    assert "hard-filtered − easy" in shown.stderr
    for line in ("miner sql", "miner decide", "miner train", "miner evaluate", "miner bench", "miner export"):
        assert f"\n{line} " in shown.stdout
    found = json.loads((out / "bench" / "results.json").read_text("utf-8"))
    assert [arm["arm"] for arm in found["arms"]] == ["easy", "hard", "hard-filtered"]
    assert {path.name for path in out.iterdir()} >= {"demo.duckdb", "reranker", "triplets", "bench"}
