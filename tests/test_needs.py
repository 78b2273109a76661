"""docs/scale.md: its figures follow from the rows of the benchmarks; more work never needs less."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
AT_MOST = 5 * 10**9


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("needs")


@pytest.fixture(scope="module")
def known(script: ModuleType) -> Any:
    return script.Constants.read(script.Rows())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the rows, to which rows can be added."""
    return Path(shutil.copytree(BENCHMARKS / "results", tmp_path / "results"))


def add(results: Path, benchmark: str, **row: Any) -> None:
    """Adds a row that has what it is not given from the last one."""
    file = results / f"{benchmark}.jsonl"
    last = json.loads(file.read_text("utf-8").splitlines()[-1])
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(last | {"full_size": True} | row) + "\n")


AMOUNTS = st.integers(1, AT_MOST)
NEEDS = ("total", "larger", "machines", "disk", "working", "memory", "shards", "nodes", "stores")


@given(st.integers(0, 2), AMOUNTS, AMOUNTS, st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_never_needs_less(
    script: ModuleType, known: Any, which: int, a: int, b: int, few: int, many: int
) -> None:
    scenario = script.SCENARIOS[which]
    less, more = (script.needs(known, scenario, pick(a, b), pick(few, many)) for pick in (min, max))
    assert all(getattr(less, one) <= getattr(more, one) for one in NEEDS)
    assert all(less.seconds[step] <= more.seconds[step] for step in more.seconds)


@given(st.integers(1, AT_MOST), st.integers(1, 10**6))
def test_an_encoder_never_needs_less(script: ModuleType, known: Any, documents: int, queries: int) -> None:
    without, *others = (script.needs(known, one, documents, queries) for one in script.SCENARIOS)
    for other in others:
        assert other.disk > without.disk
        assert other.total > without.total
        assert other.shards > without.shards


@given(st.integers(1, 3000))
def test_the_bytes_of_ids_are_those_of_all_numbers(script: ModuleType, documents: int) -> None:
    assert script.id_bytes(documents) == sum(len(f"d{number}") for number in range(documents))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_line_goes_through_its_largest_size(
    script: ModuleType, size: int, further: int, low: float, rise: float
) -> None:
    formulas = importlib.import_module("needs_formulas")
    line = formulas.Line.through({size: low, size + further: low + rise})
    assert line.start >= 0
    assert line.slope >= 0
    assert line.at(size + further) >= low + rise - 1e-6 * (1 + low + rise)


def test_a_size_that_was_measured_has_its_measured_time(script: ModuleType, known: Any) -> None:
    rows = script.Rows()
    name = f"{known.bm25_size:,} documents, miner, two threads: queries per second"
    rate = rows.value("bm25_large", name, "queries_per_second")
    assert known.bm25_seconds(known.bm25_size, 5000) == pytest.approx(5000 / rate)
    texts = rows.value("encoding", "static, miner: texts/s", "texts_per_second")
    found = script.needs(known, script.SCENARIOS[1], 9000, 1000)
    assert found.seconds["encode"] == pytest.approx(10_000 / texts)


@pytest.mark.parametrize("benchmark", ["scale", "bm25_large"])
def test_the_depth_is_that_of_the_benchmarks(script: ModuleType, benchmark: str) -> None:
    assert f"\nDEPTH = {script.DEPTH}\n" in (BENCHMARKS / f"{benchmark}.py").read_text("utf-8")


def test_the_dimension_of_known_vectors_is_that_of_the_benchmark(script: ModuleType) -> None:
    dimension = importlib.import_module("needs_formulas").KNOWN_DIMENSION
    assert f"\nDIMENSION = {dimension}\n" in (BENCHMARKS / "memory.py").read_text("utf-8")


def test_a_larger_measured_size_gets_into_the_page(script: ModuleType, results: Path) -> None:
    settings = {"queries": 10_000}
    for documents, peak in ((1_000_000, 1.0), (10_000_000, 5.5)):
        figures = {"peak_gib": peak, "seconds": documents / 1000, "stage_seconds": {"search bm25": 1.0}}
        name = f"mine, {documents:,} documents, BM25 and static: peak"
        add(results, "scale", measurement=name, figures=figures, settings=settings)
    found = script.blocks(script.Rows(results))
    assert "More than 10,000,000 documents" in found["missing"]
    assert "| BM25 and static, 10,000,000 documents, 10,000 queries | 2.8 h |" in found["check"]
    assert (
        "| mine, 10,000,000 documents, BM25 and static: peak | peak GiB 5.5; seconds 10,000 |"
        in found["measured"]
    )
    peak = script.Constants.read(script.Rows(results)).vector_peak
    assert peak.at(10_000_000) == pytest.approx(5.5)


def test_the_newest_row_counts_and_a_trial_only_without_one_of_full_size(
    script: ModuleType, results: Path
) -> None:
    name, figure = "static, miner: texts/s", "texts_per_second"
    add(results, "encoding", measurement=name, figures={figure: {"median": 5.0}})
    add(results, "encoding", measurement=name, figures={figure: {"median": 7.0}}, full_size=False)
    assert script.Rows(results).value("encoding", name, figure) == 5.0
    assert "| texts per second 5 |" in script.blocks(script.Rows(results))["measured"]


def test_a_missing_row_is_an_error(script: ModuleType, results: Path) -> None:
    (results / "encoding.jsonl").write_text("")
    with pytest.raises(SystemExit, match="encoding has no row of: static, miner: texts/s"):
        script.Constants.read(script.Rows(results))


def test_a_page_has_each_block_once(script: ModuleType) -> None:
    block = "<!-- needs: one -->\nold\n<!-- end -->"
    assert script.page(f"a\n{block}\nb\n", {"one": "new"}) == (
        "a\n<!-- needs: one -->\n\nnew\n\n<!-- end -->\nb\n"
    )
    for content in ("", f"{block}\n{block}\n"):
        with pytest.raises(SystemExit, match="must have the block <!-- needs: one --> once"):
            script.page(content, {"one": "new"})


def test_what_is_computed_says_so(script: ModuleType) -> None:
    """Every table is below a heading that says Computed, except the one of what was measured."""
    headings: dict[str, int] = {}
    title = ""
    for line in script.PAGE.read_text("utf-8").splitlines():
        title = line if re.match(r"#+ ", line) else title
        headings[title] = headings.get(title, 0) + line.startswith("| ---")
    tables = [title for title, number in headings.items() if number]
    assert tables.pop(0) == "## Measured"
    assert all("Computed" in title for title in tables)
