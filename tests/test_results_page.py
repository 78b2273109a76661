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


def row(
    median: float,
    *,
    met: bool | None = None,
    full_size: bool = True,
    command: str = "bench.py",
    **figures: Any,
) -> dict[str, Any]:
    return {
        "measurement": "miner / peer",
        "figures": figures or {"ratio": {"median": median, "min": median - 1, "max": median + 1}},
        "target": None if met is None else {"target": ">= 2 x", "value": median, "met": met},
        "settings": {"target": 2.5},
        "full_size": full_size,
        "command": f"python benchmarks/{command}",
    }


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {json.dumps(one)}' for key, one in value.items())} }}"
    return json.dumps(value)


def page(script: ModuleType, rows: list[dict[str, Any]], **claim: Any) -> str:
    claim = {"says": "speed", "benchmark": "bench", "measurement": "miner / peer", "figure": "ratio"} | claim
    lines = [f"{name} = {_toml(value)}" for name, value in (claim | {"as": "x"}).items()]
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


def test_a_claim_without_a_target_is_compared_with_a_setting_of_its_row(script: ModuleType) -> None:
    assert "| 2 x | 1 x to 3 x | met: ≤ 2.5 x |" in page(script, [row(2.0)], at_most="target")
    script.rows.cache_clear()
    text = page(script, [row(3.0)], at_most="target")
    assert "| 3 x | 2 x to 4 x | **missed**: ≤ 2.5 x |" in text
    assert "## Missed targets" in text


@pytest.mark.parametrize(
    ("other", "verdict"), [(9.0, "shown: the intervals are apart"), (4.0, "no difference shown")]
)
def test_a_claim_may_be_below_another_measurement(script: ModuleType, other: float, verdict: str) -> None:
    rows = [row(3.0), row(other) | {"measurement": "other"}]
    assert f"| 3 x | 2 x to 4 x | {verdict} |" in page(script, rows, below={"measurement": "other"})


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "shown: p ≤ 0.05"), (0.2, "no difference shown")])
def test_a_difference_without_a_target_is_shown_by_its_p_value(
    script: ModuleType, p: float, verdict: str
) -> None:
    found = row(1.0, ratio=1.0, interval=[0.5, 1.5], p=p)
    assert f"| 1 x | 0.5 x to 1.5 x, p {p:g} | {verdict} |" in page(script, [found], expected="> 0")


def test_a_share_of_so_many_queries_gets_its_interval(script: ModuleType) -> None:
    """Clopper and Pearson's interval of 9 of 10."""
    found = row(0.9, met=True, ratio=0.9)
    assert "| 0.9 x | 0.555 x to 0.997 x |" in page(script, [found], queries=10)


@pytest.mark.parametrize("found", [row(3.0), row(3.0, met=True, ratio=3.0)], ids=["verdict", "interval"])
def test_a_claim_without_a_verdict_or_an_interval_is_an_error(
    script: ModuleType, found: dict[str, Any]
) -> None:
    with pytest.raises(SystemExit, match="a claim without an interval or a verdict: speed"):
        page(script, [found])


def passage(script: ModuleType, folder: Path, content: str) -> str:
    """Returns a page whose passage has the newest figures."""
    (folder / "page.md").write_text(content, "utf-8")
    script.ROOT = folder
    script.CLAIMS.write_text(
        '[[passage]]\npage = "page.md"\nbenchmark = "bench"\n'
        'says = "**Expect.** It is {speed} ({speed.interval}) as fast."\n'
        '[passage.also]\nspeed = { measurement = "miner / peer", figure = "ratio", as = "x" }\n'
    )
    (script.ROWS / "bench.jsonl").write_text(json.dumps(row(3.0)))
    text: str = script.passages()[folder / "page.md"]
    return text


def test_a_passage_gets_the_newest_figures_and_the_rest_of_its_page_stays(
    script: ModuleType, tmp_path: Path
) -> None:
    before = "# Page\n\n**When.** Now.\n\n**Expect.** It\nis 9 x as\nfast.\n\nEnd.\n"
    after = "# Page\n\n**When.** Now.\n\n**Expect.** It is 3 x (2 x to 4 x) as fast.\n\nEnd.\n"
    assert passage(script, tmp_path, before) == after
    assert passage(script, tmp_path, after) == after


@pytest.mark.parametrize("content", ["# Page\n", "**Expect.** It is a\n\n**Expect.** It is b\n"])
def test_a_passage_replaces_exactly_one(script: ModuleType, tmp_path: Path, content: str) -> None:
    with pytest.raises(SystemExit, match=r"page\.md has [02] passages that begin with: \*\*Expect"):
        passage(script, tmp_path, content)


def test_the_figures_of_the_recipes_come_from_rows() -> None:
    """A measured figure has three decimals or a percent sign; commands may have thresholds."""
    claims = tomllib.loads((ROOT / "benchmarks" / "claims.toml").read_text("utf-8"))["passage"]
    starts = [claim["says"].partition("{")[0] for claim in claims]
    typed = []
    for page in ROOT.glob("docs/recipes/*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for block in re.split(r"\n\s*\n|\n(?=\|)", text):
            flat = " ".join(block.split())
            if re.search(r"\d\.\d{3}|\d\.\d %", flat) and not any(flat.startswith(one) for one in starts):
                typed.append(f"{page.name}: {flat}")
    assert typed == []


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
