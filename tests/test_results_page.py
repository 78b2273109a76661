"""docs/results.md: every figure is that of the newest row, missed targets come first, losses stay."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Returns scripts/results_page.py, reading rows from an empty folder."""
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "scripts" / "results_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROWS", tmp_path)
    monkeypatch.setattr(module, "CLAIMS", tmp_path / "claims.toml")
    return module


def row(median: float, *, met: bool, full_size: bool = True, command: str = "bench.py") -> dict[str, Any]:
    return {
        "measurement": "miner / peer",
        "figures": {"ratio": {"median": median, "min": median - 1, "max": median + 1}},
        "target": {"target": ">= 2 x", "value": median, "met": met},
        "full_size": full_size,
        "command": f"python benchmarks/{command}",
    }


def page(script: ModuleType, rows: list[dict[str, Any]], **claim: str) -> str:
    claim = {"says": "speed", "benchmark": "bench", "measurement": "miner / peer", "figure": "ratio"} | claim
    lines = [f"{name} = {json.dumps(value)}" for name, value in (claim | {"as": "x"}).items()]
    script.CLAIMS.write_text("\n".join(["[[claim]]", *lines]))
    (script.ROWS / "bench.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text: str = script.results()
    return text


def test_the_newest_full_size_row_gives_the_figure(script: ModuleType) -> None:
    rows = [row(1.5, met=False), row(3.0, met=True), row(9.0, met=True, full_size=False)]
    assert "| 3 x | 2 x to 4 x | met: ≥ 2 x | `bench.py` |" in page(script, rows)


def test_a_trial_counts_only_without_a_full_size_row(script: ModuleType) -> None:
    assert "| 9 x |" in page(script, [row(9.0, met=True, full_size=False)])


def test_a_row_that_misses_its_target_moves_the_claim(script: ModuleType) -> None:
    text = page(script, [row(3.0, met=True), row(1.5, met=False)])
    assert "## Missed targets" in text
    assert "**missed**: ≥ 2 x" in text
    assert "## Met" not in text


def test_a_claim_may_be_of_one_command(script: ModuleType) -> None:
    rows = [row(3.0, met=True, command="bench.py --small"), row(5.0, met=True)]
    assert "| 3 x |" in page(script, rows, args="--small")


def test_a_claim_that_a_new_row_contradicts_says_so(script: ModuleType) -> None:
    assert "contradicts the claim" in page(script, [row(3.0, met=True)], expected="< 0")


def test_a_claim_without_a_row_is_an_error(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="bench has no row of: nothing"):
        page(script, [row(3.0, met=True)], measurement="nothing")


def test_claims_have_no_figures_of_their_own() -> None:
    claims = tomllib.loads((ROOT / "benchmarks" / "claims.toml").read_text("utf-8"))["claim"]
    assert len(claims) <= 25
    measured = re.compile(r"0\.\d{3,}|\d\.\d+ (x|times)|[+−]0\.\d+|p 0\.\d+")
    assert [c["says"] for c in claims if measured.search(c["says"])] == []


def test_misses_come_first_and_losses_stay() -> None:
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles[0] == "Missed targets"
    assert "Losses" in titles
    assert "20,000 easy negatives against 2,000 filtered hard ones" in text
    assert len(re.findall(r"^\| \[", text, re.MULTILINE)) <= 25
