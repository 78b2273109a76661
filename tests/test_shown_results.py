"""Results as people see them in a prompt and below a notebook's cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import miner
from miner import Store
from miner.reporting.readable import Readable, html_table, preformatted
from miner.stats import Rate
from miner.store.runs import begin_run

ROWS = [
    {
        "query": f"<b>{topic}</b> & how to {verb} it",
        "positive": f"{topic} <script>{verb}</script> number {number}",
    }
    for topic in ("apple", "bread", "cheese", "dough")
    for number in range(3)
    for verb in ("bake", "cut")
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "<i>.duckdb") as made:
        made.ingest(ROWS)
        yield made


def test_a_store_shows_what_it_holds(store: Store) -> None:
    assert repr(store) == f"Store({str(store.path)!r})"
    page = store._repr_html_()
    assert "<i>.duckdb" not in page
    assert "&lt;i&gt;.duckdb" in page
    assert "24" in page
    store.close()
    assert repr(store).endswith("(closed)")
    assert "24" in store._repr_html_()


def test_a_run_shows_counts_coverage_and_hidden_positive_rate(store: Store) -> None:
    run = store.mine(relative_margin=None, negatives=2, name="<u>")
    assert repr(run).startswith("Run '<u>' of split train: ")
    assert "coverage" in repr(run)
    assert repr(run).endswith("not audited")
    run.audit(repeats=2)
    assert "hidden-positive rate" in repr(run)
    page = run._repr_html_()
    assert "<u>" not in page
    for word in ("selected", "dropped", "positive", "coverage", "hidden-positive rate", "bm25"):
        assert word in page
    run_path = miner.find_run(store.path)
    store.close()
    store.path.unlink()
    assert "<u>" in repr(run_path)
    assert "&lt;u&gt;" in run_path._repr_html_()


def test_an_unfinished_run_says_so_and_can_be_removed(store: Store) -> None:
    run = store.mine()
    begin_run(store, replace(run, run_id="other", name="half", status="running", finished=None))
    (half,) = [one for one in store.runs() if one.name == "half"]
    assert repr(half) == "Run 'half' of split train: not finished"
    assert "not finished" in half._repr_html_()
    miner.remove_runs(store, half)
    assert [one.name for one in store.runs()] == [run.name]


def test_triplets_show_their_first_rows_escaped(store: Store) -> None:
    found = store.mine(relative_margin=None, negatives=2).triplets(texts=True)
    assert repr(found).startswith(f"{len(found)} triplets of run 'r1': query_id")
    page = found._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert f"{len(found) - 5} more" in page


def test_reports_are_short_in_a_prompt_and_tables_in_a_notebook(store: Store, tmp_path: Path) -> None:
    run = store.mine(relative_margin=None, negatives=2)
    other = tmp_path / "other.duckdb"
    found: dict[str, Any] = {
        "ingest": miner.ingest(other, ROWS[:4], split="test"),
        "audit": run.audit(repeats=2),
        "calibration": run.calibrate(0.9, repeats=2),
        "relabel": run.relabel(repeats=2, dry_run=True),
        "dedup": store.dedup(),
        "contamination": store.contamination(other),
        "diff": run.diff(run.decide(negatives=1)),
        "explanation": run.explain(run.triplets()["query_id"][0].as_py()),
        "export": run.export(tmp_path / "out"),
        "store": store,
        "run": run,
        "triplets": run.triplets(texts=True),
    }
    for name, report in found.items():
        line, page = repr(report), report._repr_html_()
        assert "\n" not in line, name
        assert len(line) < 400, (name, line)
        assert "<script>" not in page, name
        assert "<b>apple" not in page, name
        assert page.startswith(("<pre", "<b>")), name
    assert "hidden-positive rate" in repr(found["audit"])
    assert "known positives, of" in found["audit"]._repr_html_()
    assert "frontier" in found["calibration"]._repr_html_()
    assert "matches=4 entries" in repr(found["contamination"]) or "matches" in repr(found["contamination"])


@dataclass(frozen=True, repr=False)
class Sample(Readable):
    """A report of every kind of value."""

    name: str
    share: float
    nothing: str | None
    counts: dict[str, int]
    many: tuple[int, ...]
    rate: Rate
    inner: object


def test_a_report_shows_the_fields_that_fit_into_a_line() -> None:
    rate = Rate(1, 4, 0.25, 0.01, 0.8)
    one = Sample("x" * 100 + "\n", 1 / 3, None, {"a": 1, "b": 2}, tuple(range(1000)), rate, object())
    shown = dict(line.split("  ", 1) for line in one.as_text().splitlines())
    assert shown["share"].strip() == "0.3333"
    assert shown["nothing"].strip() == "-"
    assert shown["counts"].strip() == "a 1, b 2"
    assert shown["many"].strip() == "1,000 entries"
    assert shown["rate"].strip() == "25.00 % [1.00 %, 80.00 %]"
    assert "inner" not in shown
    assert "\n" not in repr(one)
    assert "…" in repr(one)


def test_html_is_escaped() -> None:
    table = html_table(["<a>"], [["<b>&\x1b[2J"]])
    assert table.count("<") - table.count("</") == 5
    assert "&lt;b&gt;&amp;\\x1b[2J" in table
    assert preformatted("<i>\n\u202e") == "<pre style='line-height:1.3'>&lt;i&gt;\n\\u202e</pre>"
