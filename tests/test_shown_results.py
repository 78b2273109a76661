"""Results as people see them in a prompt and below a notebook's cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import miner
from miner import Store

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
    for word in ("selected", "dropped", "positive", "coverage", "hidden-positive rate", "BM25"):
        assert word in page
    run_path = miner.find_run(store.path)
    store.close()
    store.path.unlink()
    assert "<u>" in repr(run_path)
    assert "&lt;u&gt;" in run_path._repr_html_()


def test_triplets_show_their_first_rows_escaped(store: Store) -> None:
    found = store.mine(relative_margin=None, negatives=2).triplets(texts=True)
    assert repr(found).startswith(f"{len(found)} triplets of run 'r1': query_id")
    page = found._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert f"{len(found) - 5} more" in page
