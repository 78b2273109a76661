"""Merging what arrives: conflicts, duplicates, bad rows, and all or nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.engine.progress import Silent
from miner.errors import InputError, MinerError, StoreError, UsageError
from miner.sources import Part, Rows, Source, SourceConfig, ingest
from miner.store.database import Database
from tests.sources_support import beir, dump, jsonl, refused, rows, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return beir(
        tmp_path / "set",
        {f"d{i}": f"document {i}" for i in range(10)},
        {"q1": "one?", "q2": "two?"},
        train=[("q1", "d1", 1), ("q2", "d2", 1)],
    )


def _add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_the_same_again_changes_nothing(tmp_path: Path, folder: Path) -> None:
    _add(folder / "corpus.jsonl", jsonl({"_id": "e", "text": "\t"}, {"_id": "d1", "text": "document 1"}))
    _add(folder / "qrels/train.tsv", "q1\tnone\t1\nq1\td1\t0\n")
    store = tmp_path / "s.duckdb"
    config = SourceConfig(max_bad=0.5)
    first = ingest(store, [str(folder)], config)
    before = dump(store)
    again = ingest(store, [str(folder)], config)
    assert dump(store) == before
    assert dict(first.added) == {"documents": 10, "queries": 2, "judgments": 2}
    assert dict(again.added) == {"documents": 0, "queries": 0, "judgments": 0}
    assert again.already_there == first.added
    assert again.rejected == first.rejected
    assert len(before["rejected"]) == 4


def test_conflicting_texts_name_both_places(tmp_path: Path, folder: Path) -> None:
    _add(folder / "corpus.jsonl", jsonl({"_id": "d3", "text": "other"}, {"_id": "d4", "text": "other"}))
    assert refused(tmp_path, folder) == (
        "document 'd3' has two texts: DIR/set/corpus.jsonl:4 and DIR/set/corpus.jsonl:11 "
        "(and 1 more such ids); give every document its own id, or ingest into another store"
    )


def test_titles_count_as_text(tmp_path: Path, folder: Path) -> None:
    _add(folder / "corpus.jsonl", jsonl({"_id": "d3", "title": "T", "text": "document 3"}))
    assert refused(tmp_path, folder).startswith("document 'd3' has two texts: DIR/set/corpus.jsonl:4 and")


def test_conflicting_queries(tmp_path: Path, folder: Path) -> None:
    other = beir(tmp_path / "other", {"x": "x"}, {"q1": "another?"})
    with pytest.raises(InputError) as caught:
        ingest(tmp_path / "s.duckdb", [str(folder), str(other)])
    assert str(caught.value).replace(str(tmp_path), "DIR") == (
        "query 'q1' has two texts: DIR/set/queries.jsonl:1 and DIR/other/queries.jsonl:1; "
        "give every query its own id, or ingest into another store"
    )
    assert not (tmp_path / "s.duckdb").exists()


def test_conflict_with_the_store(tmp_path: Path, folder: Path) -> None:
    store = tmp_path / "s.duckdb"
    ingest(store, [str(folder)])
    before = dump(store)
    other = beir(tmp_path / "other", {"new": "new", "d1": "another"}, {})
    with pytest.raises(InputError) as caught:
        ingest(store, [str(other)])
    assert caught.value.message == (
        f"document 'd1' has two texts: the store and {tmp_path}/other/corpus.jsonl:2"
    )
    assert dump(store) == before


def test_an_id_of_a_pair_with_two_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "id\tquery\tpositive\n1\ta\tb\n1\tc\td\n")
    assert refused(tmp_path, path, query_id_column="id").startswith(
        "query '1' has two texts: DIR/p.tsv:2 and DIR/p.tsv:3; "
    )


@pytest.mark.parametrize("text", ["", " \t\n", "\0\0", "\u3000", "\ud800"])
def test_empty_texts_are_left_out(tmp_path: Path, folder: Path, text: str) -> None:
    _add(folder / "corpus.jsonl", jsonl({"_id": "empty", "text": text}))
    _add(folder / "queries.jsonl", jsonl({"_id": "empty", "text": text}))
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(folder)], SourceConfig(max_bad=0.5))
    (rejection,) = report.rejected
    assert (rejection.reason, rejection.rows) == ("empty_text", 2)
    assert rejection.first == (
        f"{folder}/corpus.jsonl:11: document 'empty' has no text",
        f"{folder}/queries.jsonl:3: query 'empty' has no text",
    )
    assert rows(store, "SELECT count(*) FROM documents") == [(10,)]
    assert report.cleaned == (2 if text in ("\0\0", "\ud800") else 0)


def test_dangling_judgments_are_left_out(tmp_path: Path, folder: Path) -> None:
    _add(folder / "qrels/train.tsv", "q9\td1\t1\nq1\td99\t1\nq9\td99\t1\n")
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(folder)], SourceConfig(max_bad=0.6))
    assert [(r.reason, r.rows, r.first) for r in report.rejected] == [
        ("unknown_query", 2, tuple(f"{folder}/qrels/train.tsv:{n}: no query 'q9'" for n in (4, 6))),
        ("unknown_document", 1, (f"{folder}/qrels/train.tsv:5: no document 'd99' (judged for query 'q1')",)),
    ]
    assert rows(store, "SELECT line, reason FROM rejected ORDER BY line") == [
        (4, "unknown_query"),
        (5, "unknown_document"),
        (6, "unknown_query"),
    ]
    assert rows(store, "SELECT count(*) FROM judgments") == [(2,)]


def test_too_many_bad_rows(tmp_path: Path, folder: Path) -> None:
    _add(folder / "qrels/train.tsv", "q9\td1\t1\nq1\td99\t1\n")
    assert refused(tmp_path, folder, max_bad=0.3) == (
        "2 of 5 judgments are bad (40 %, allowed: 30 %), nothing was written; bad rows: "
        "1 unknown_document, 1 unknown_query; first: "
        "DIR/set/qrels/train.tsv:5: no document 'd99' (judged for query 'q1'); "
        "DIR/set/qrels/train.tsv:4: no query 'q9'; correct the files, or allow more with "
        "--set max_bad=FRACTION"
    )


def test_the_share_is_of_rows_of_one_kind(tmp_path: Path) -> None:
    folder = beir(
        tmp_path / "set", {f"d{i}": f"text {i}" for i in range(500)}, {"q": "?"}, train=[("q", "gone", 1)]
    )
    assert refused(tmp_path, folder).startswith("1 of 2 judgments are bad (50 %, allowed: 1 %)")


def test_duplicate_rows_are_counted_and_do_no_harm(tmp_path: Path, folder: Path) -> None:
    _add(folder / "corpus.jsonl", jsonl(*[{"_id": "d1", "title": "", "text": "document 1"}] * 20))
    _add(folder / "qrels/train.tsv", "q1\td1\t1\n")
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(folder)], SourceConfig(max_bad=0))
    (rejection,) = report.rejected
    assert (rejection.reason, rejection.rows) == ("duplicate_row", 21)
    assert rejection.first[0] == f"{folder}/corpus.jsonl:11: the same row as {folder}/corpus.jsonl:2"
    assert rows(store, "SELECT count(*) FROM documents") == [(10,)]
    assert rows(store, "SELECT count(*) FROM judgments") == [(2,)]


def test_query_with_several_positives_is_no_duplicate(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "query\tpositive\na\tb\na\tc\na\tb\n")
    report = ingest(tmp_path / "s.duckdb", [str(path)])
    assert [(r.reason, r.rows) for r in report.rejected] == [("duplicate_row", 1)]


def test_the_higher_relevance_counts_whatever_the_order(tmp_path: Path) -> None:
    stores = []
    for name, order in (("x", (0, 1)), ("y", (1, 0))):
        texts = ["query\tpositive\tnegative\na\tb\tc\n", "query\tpositive\tnegative\na\tc\td\n"]
        store = tmp_path / f"{name}.duckdb"
        for number in order:
            path = write(tmp_path / f"{name}{number}.tsv", texts[number])
            ingest(store, [str(path)], SourceConfig(max_bad=1))
        stores.append(dump(store)["judgments"])
    assert stores[0] == stores[1]
    assert sorted(row[2] for row in stores[0]) == [0.0, 1.0, 1.0]


def test_judgments_may_come_before_what_they_name(tmp_path: Path, folder: Path) -> None:
    other = beir(tmp_path / "other", {"x": "x"}, {"qx": "?"}, test=[("q1", "x", 1), ("qx", "d1", 1)])
    report = ingest(tmp_path / "s.duckdb", [str(other), str(folder)])
    assert dict(report.splits) == {"test": 2, "train": 2}


def test_no_sources_and_bad_options(tmp_path: Path, folder: Path) -> None:
    settings: dict[str, Any]
    for sources, settings, message in (
        ([], {}, "the list of sources is empty"),
        (["x"], {"format": "bier"}, "no source format 'bier' (did you mean 'beir'?)"),
        (["x"], {"max_bad": 2}, "max_bad must be a number from 0 to 1, got 2: for 2 % write 0.02"),
        (
            ["x"],
            {"positives_per_query": 0},
            "positives_per_query must be a whole number from 1 to 10,000, got 0",
        ),
    ):
        with pytest.raises(UsageError) as caught:
            ingest(tmp_path / "s.duckdb", sources, SourceConfig(**settings))
        assert caught.value.message == message
    assert not (tmp_path / "s.duckdb").exists()


def test_missing_source_names_the_nearest(tmp_path: Path, folder: Path) -> None:
    assert refused(tmp_path, tmp_path / "sett") == (
        "there is no file or folder DIR/sett (did you mean 'set'?); "
        "name a file or folder, hf:NAME, or python:PACKAGE"
    )


def test_a_folder_is_no_store(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="is a source, not a store: the store comes first; miner ingest my"):
        ingest(folder, [str(folder)])
    assert (folder / "corpus.jsonl").exists()


def part_of(identity: str, text: str = "text") -> Part:
    collected = Rows()
    collected.start("documents", "here", 1, identity)
    collected.document(identity, text)
    return collected.part()


def source(parts: Iterator[Part]) -> Source:
    return Source("here", 1, "rows", parts)


def test_interrupted_ingest_leaves_nothing(tmp_path: Path) -> None:
    def parts() -> Iterator[Part]:
        yield part_of("x")
        assert [path.name for path in tmp_path.glob("*.duckdb")] == [], "not there before it is complete"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "s.duckdb", source(parts()))
    assert not list(tmp_path.iterdir())


def test_of_two_ingests_into_one_new_store_the_second_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"

    def parts() -> Iterator[Part]:
        yield part_of("first")
        with pytest.raises(MinerError) as caught:
            ingest(store, source(iter([part_of("second")])))
        assert str(caught.value) == (
            f"another process is writing {store}; wait until it ends, or name another target"
        )

    ingest(store, source(parts()))
    assert rows(store, "SELECT doc_id FROM documents") == [("first",)]
    ingest(store, source(iter([part_of("second")])))
    assert rows(store, "SELECT doc_id FROM documents ORDER BY ALL") == [("first",), ("second",)]
    assert [path.name for path in tmp_path.iterdir()] == ["s.duckdb"]


def test_a_store_that_came_to_be_meanwhile_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"

    def parts() -> Iterator[Part]:
        yield part_of("loser")
        Database.open(store, create=True).close()

    with pytest.raises(MinerError, match=f"another process made {store} meanwhile"):
        ingest(store, source(parts()))
    assert rows(store, "SELECT doc_id FROM documents") == []
    assert [path.name for path in tmp_path.iterdir()] == ["s.duckdb"]


def test_others_read_the_store_until_the_merge_and_nothing_of_it_is_there_before(
    tmp_path: Path, folder: Path
) -> None:
    store = tmp_path / "s.duckdb"
    ingest(store, [str(folder)])
    command = [sys.executable, "-m", "miner", "sql", str(store), "SELECT count(*) AS n FROM documents"]

    def parts() -> Iterator[Part]:
        for name in ("x", "y"):
            yield part_of(name)
            found = subprocess.run([*command, "--format", "csv"], capture_output=True, text=True, check=False)
            assert (found.stdout.split(), found.stderr) == (["n", "10"], "")
            assert rows(store, "SELECT count(*) FROM documents") == [(10,)]  # in the same process, too

    with Database.open(store) as opened:  # one process may have it open several times
        assert ingest(store, source(parts())).added["documents"] == 2
        assert opened.rows("SELECT count(*) FROM documents") == [(12,)]
    assert rows(store, "SELECT count(*), max(doc_id) FROM documents") == [(12, "y")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.duckdb", "set"]


def test_nobody_else_writes_from_the_start_to_the_end_of_an_ingest(tmp_path: Path, folder: Path) -> None:
    store = tmp_path / "s.duckdb"
    ingest(store, [str(folder)])
    writing = "import sys; from miner.store.database import Database; Database.open(sys.argv[1], wait=0.1)"

    def parts() -> Iterator[Part]:
        yield part_of("x")
        found = subprocess.run([sys.executable, "-c", writing, str(store)], capture_output=True, check=False)
        assert b"another command writes to" in found.stderr

    ingest(store, source(parts()))


def test_the_merge_waits_for_readers_and_says_so(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.store.access._SAY", 0.2)
    store = tmp_path / "s.duckdb"
    ingest(store, [str(folder)])
    hold = (
        "import sys, duckdb; held = duckdb.connect(sys.argv[1], read_only=True); print(flush=True); input()"
    )
    readers: list[subprocess.Popen[bytes]] = []

    def parts() -> Iterator[Part]:
        yield part_of("x")
        command = [sys.executable, "-c", hold, str(store)]
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        readers.append(reader)
        assert reader.stdout is not None
        reader.stdout.readline()

    class Said(Silent):
        def note(self, message: str) -> None:
            (reader,) = readers
            assert message == f"waiting for another process that holds {store}: process {reader.pid}"
            reader.communicate(b"\n")

    ingest(store, source(parts()), progress=Said())
    assert readers[0].poll() == 0, "the merge did not wait"
    assert rows(store, "SELECT count(*) FROM documents") == [(11,)]


def test_a_store_that_is_moved_during_an_ingest_is_not_made_anew(tmp_path: Path, folder: Path) -> None:
    store, moved = tmp_path / "s.duckdb", tmp_path / "moved.duckdb"
    ingest(store, [str(folder)])

    def parts() -> Iterator[Part]:
        yield part_of("x")
        store.rename(moved)

    with pytest.raises(StoreError, match="was moved, removed or replaced while it was in use"):
        ingest(store, source(parts()))
    assert not store.exists()
    assert rows(moved, "SELECT count(*) FROM documents") == [(10,)]


def test_an_ingest_that_is_killed_before_the_merge_leaves_the_store_as_it_was(
    tmp_path: Path, folder: Path
) -> None:
    store = tmp_path / "s.duckdb"
    ingest(store, [str(folder)])
    before = dump(store)
    killed = """
import os, signal, sys
from miner.sources import ingest
from miner.memory import MemoryLimit
from tests.test_intake import part_of, source
def parts():
    for number in range(60):
        yield part_of(f"x{number}", os.urandom(500_000).hex())
    os.kill(os.getpid(), signal.SIGKILL)
MemoryLimit.database = 30_000_000
ingest(sys.argv[1], source(parts()))
"""
    ended = subprocess.run([sys.executable, "-c", killed, str(store)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list((tmp_path / ".s.duckdb.miner-new.spill").iterdir()), "nothing was spilled"
    assert dump(store) == before
    ingest(store, source(iter([part_of("x")])))
    assert rows(store, "SELECT count(*) FROM documents") == [(11,)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.duckdb", "set"]


Judged = st.tuples(
    st.sampled_from(["q0", "q1", "q9"]), st.sampled_from(["d0", "d1", "d9"]), st.sampled_from([-1, 0, 1, 2])
)


@settings(max_examples=10, deadline=None)
@given(st.lists(Judged, max_size=12))
def test_judgments_follow_the_rules(
    tmp_path_factory: pytest.TempPathFactory, judged: list[tuple[str, str, int]]
) -> None:
    """The store holds, per known pair, the highest relevance; every other row is listed once."""
    folder = tmp_path_factory.mktemp("judged")
    beir(folder / "set", {"d0": "a", "d1": "b"}, {"q0": "c", "q1": "d"}, train=judged)
    ingest(folder / "s.duckdb", [str(folder / "set")], SourceConfig(max_bad=1))
    best: dict[tuple[str, str], int] = {}
    for query, document, relevance in judged:
        if query != "q9" and document != "d9":
            best[query, document] = max(relevance, best.get((query, document), relevance))
    stored = rows(folder / "s.duckdb", "SELECT query_id, doc_id, relevance FROM judgments")
    assert {(q, d): r for q, d, r in stored} == best
    assert len(stored) == len(best)
    listed = rows(folder / "s.duckdb", "SELECT line FROM rejected")
    assert len(listed) == len(set(listed)) == len(judged) - len(best)
