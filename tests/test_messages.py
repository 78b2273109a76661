"""A message shows a few of a long list, and how many more there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from miner.errors import UsageError, listed
from miner.mining.config import MiningConfig
from miner.mining.diff import change
from miner.mining.pipeline import mine
from miner.sources import SourceConfig, ingest
from miner.store import runs
from tests.stores import make_store
from tests.test_pipeline import Notes


def test_a_long_list_is_cut_and_counted() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b"], " and ") == "a and b"
    assert listed(range(5), most=3) == "0, 1, 2 and 2 more"
    # The name of one more takes no more room than "and 1 more".
    assert listed(range(4), most=3) == "0, 1, 2, 3"
    assert listed((f"d{i}" for i in range(3000)), most=3) == "d0, d1, d2 and 2,997 more"


def test_a_setting_that_is_a_list_says_what_came_and_what_went() -> None:
    assert change("protected", [], ["a", "b"]) == "protected added a, b"
    assert change("protected", ["a", "b", "c"], ["b", "d"]) == "protected added d, removed a, c"
    assert change("depth", 5, 7) == "depth 5 → 7"
    assert change("encoder", None, "bundled") == "encoder none → bundled"


def test_three_thousand_protected_documents_are_a_short_note(tmp_path: Path) -> None:
    corpus = {f"d{i:04}": f"apple pie w{i}" for i in range(3001)}
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "apple w1"}, [("q", "d0001")]) as store:
        mine(store, MiningConfig())
        notes = Notes()
        protected = MiningConfig(protected=tuple(sorted(corpus))[:3000])
        run = mine(store, protected, progress=notes)
        assert notes.said == ["since run r1: protected added d0000, d0001, d0002 and 2,997 more"]
        assert len(run.config["protected"]) == 3000
        with pytest.raises(UsageError) as caught:
            mine(store, protected, name="r1")
        assert len(str(caught.value)) < 250
        store.execute(
            "INSERT INTO runs SELECT r.* REPLACE ('run' || i AS name) FROM runs r, range(50) t(i) "
            "WHERE r.name = 'r1'"
        )
        with pytest.raises(UsageError, match=r"runs there: \S+(, \S+)* and 32 more$"):
            runs.find_run(store, "none")


def test_three_hundred_unread_columns_are_a_short_note(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(300)]
    file = tmp_path / "pairs.tsv"
    rows = ["\t".join(["query", "positive", *names]), "\t".join(["red fox", "a fox", *("1" * 300)])]
    file.write_text("\n".join(rows) + "\n", "utf-8")
    notes = Notes()
    ingest(tmp_path / "s.duckdb", [str(file)], SourceConfig(), progress=notes)
    reported = [note for note in notes.said if note.startswith("not read")]
    assert any(re.search(r"c0, c1, .*c19 and 280 more", note) for note in reported), reported
