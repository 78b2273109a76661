"""Opening a store, transactions, and moving Arrow tables in and out."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.cli.main import group
from miner.errors import MinerError, StoreError, UsageError
from miner.store import corpus
from miner.store.database import Database
from miner.store.lock import BusyError, lock_file, request_mark
from tests.stores import make_store


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(StoreError) as caught:
        Database.open(path, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 1
    return str(caught.value)


NOT_OURS = "is a DuckDB database, but not a miner store; name another file"


# Opening


def test_a_store_is_made_with_its_tables_and_views_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "s.duckdb"
    with Database.open(path, create=True) as store:
        assert corpus.counts(store) == {"documents": 0, "queries": 0, "judgments": 0, "runs": 0}
        for view in ("verdicts", "kept", "dropped", "reasons", "triplet_texts", "shortfalls"):
            assert store.rows(f"SELECT * FROM {view}") == []
    for options in ({}, {"read_only": True}, {"create": True}):
        with Database.open(path, **options) as store:  # type: ignore[arg-type]
            assert store.path == path
            assert store.vectors == tmp_path / "new" / "folder" / "s.duckdb.vectors"


def test_a_missing_store_is_not_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "none.duckdb"
    for options in ({}, {"read_only": True}):
        assert refusal(path, **options) == (
            f"there is no store at {path}; make one: miner ingest {path} SOURCE"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    for options in ({}, {"create": True}):
        assert refusal(tmp_path, **options) == (
            f"{tmp_path} is a folder, not a store; name a file, such as my.duckdb"
        )


def test_a_file_instead_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / "file" / "s.duckdb", create=True) == (
        f"cannot make the folder {tmp_path / 'file'}: File exists; check the path"
    )


@pytest.mark.parametrize("name", ["notes.txt", "clock.duckdb", "block of text"])
@pytest.mark.parametrize("text", ["", "hello", "hello " * 10_000])
def test_another_file_is_no_store_and_is_left_as_it_was(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    for options in ({}, {"read_only": True}, {"create": True}):
        assert refusal(path, **options) == f"{path} is not a DuckDB file; name a store made by miner ingest"
    assert path.read_text() == text


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE documents (a INTEGER)",
        "CREATE TABLE meta (a INTEGER)",
        "CREATE TABLE meta AS SELECT 'other' AS key, '1' AS value",
        "CREATE VIEW v AS SELECT 1 AS a",
    ],
)
def test_another_database_is_refused_and_left_as_it_was(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "other.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(statement)
    before = path.read_bytes()
    for options in ({}, {"read_only": True}, {"create": True}):
        assert refusal(path, **options) == f"{path} {NOT_OURS}"
    assert path.read_bytes() == before


def test_an_empty_database_is_no_store_for_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "empty.duckdb"
    duckdb.connect(str(path)).close()
    assert refusal(path, read_only=True) == f"{path} {NOT_OURS}"


_HOLDER = """
import sys
from miner.store.database import Database
from miner.store.lock import BusyError, lock_file, request_mark
with Database.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_has_a_store_to_write_and_others_read_it(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    Database.open(path, create=True).close()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(BusyError) as caught:
            Database.open(path, wait=0)
        reported = rf"another command writes to {path}: python, process {holder.pid}, since [-0-9: ]+ UTC"
        assert re.fullmatch(f"{reported}; wait until it ends, or end it", str(caught.value))
        with Database.open(path, read_only=True) as store:
            assert corpus.counts(store)["documents"] == 0
    finally:
        holder.communicate()
    assert holder.returncode == 0
    Database.open(path, wait=0).close()
    assert [file.name for file in tmp_path.iterdir()] == ["s.duckdb"]


def test_a_killed_process_holds_nothing_and_a_reader_sees_what_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    killing = """
import os, signal, sys
from miner.store.database import Database
store = Database.open(sys.argv[1], create=True)
store.execute("CHECKPOINT")
store.execute("INSERT INTO meta VALUES ('test', 'committed')")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", killing, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.with_name("s.duckdb.wal").exists()
    with Database.open(path, read_only=True) as store:
        assert labels(store) == ["committed"]
    with Database.open(path, wait=0) as store:
        assert labels(store) == ["committed"]
    assert [file.name for file in tmp_path.iterdir()] == ["s.duckdb"]


def test_one_who_waits_can_be_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with Database.open(path, create=True) as store, store.transaction():
        before = request_mark(path)
        command = [sys.executable, "-m", "miner", "sql", str(path), "SELECT 1"]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while request_mark(path) == before and waiting.poll() is None:
            time.sleep(0.01)
        waiting.send_signal(signal.SIGINT)
        waiting.communicate()
    assert waiting.returncode == 130


def test_a_writer_steps_aside_for_a_reader_and_goes_on(tmp_path: Path) -> None:
    path, ends = tmp_path / "s.duckdb", tmp_path / "end"
    reading = """
import sys
from pathlib import Path
from miner.store.database import Database
for _ in range(5):
    with Database.open(sys.argv[1], read_only=True) as store:
        print(*store.rows("SELECT count(*), count(DISTINCT key) FROM meta WHERE value = ''")[0], flush=True)
Path(sys.argv[2]).touch()
"""
    with Database.open(path, create=True) as store:
        reader = subprocess.Popen(
            [sys.executable, "-c", reading, str(path), str(ends)], stdout=subprocess.PIPE, text=True
        )
        pairs = 0
        while not ends.exists() and reader.poll() is None:
            with store.transaction():  # one statement after the other, and no pause
                for name in "ab":
                    store.execute("INSERT INTO meta VALUES (?, '')", [f"{name}{pairs}"])
            pairs += 1
        read, _ = reader.communicate()
        assert store.rows("SELECT count(*) FROM meta WHERE value = ''") == [(2 * pairs,)]
    counts = [tuple(map(int, line.split())) for line in read.splitlines()]
    assert len(counts) == 5
    assert all(rows == keys and rows % 2 == 0 for rows, keys in counts), "a transaction was half read"


def test_a_reader_that_may_not_ask_gets_in_at_the_next_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "utime", refused)  # as the lock file of another account does
    monkeypatch.setattr("miner.store.access._IDLE", 0.2)
    path = tmp_path / "s.duckdb"
    with Database.open(path, create=True) as store:
        note(store, "a")
        with Database.open(path, read_only=True) as reader:
            assert labels(reader) == ["a"]
        note(store, "b")
        with store.kept_open(), pytest.raises(BusyError, match="another process holds"):
            Database.open(path, read_only=True, wait=0.1)


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644)])
def test_the_umask_says_who_else_may_ask_a_writer_to_step_aside(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with Database.open(tmp_path / "s.duckdb", create=True):
            assert stat.S_IMODE(lock_file(tmp_path / "s.duckdb").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_reader_sees_one_state_or_says_that_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.duckdb"
    with Database.open(path, create=True) as store:
        note(store, "a")
    writing = "import sys, duckdb; duckdb.connect(sys.argv[1]).execute(sys.argv[2])"
    insert = [sys.executable, "-c", writing, str(path), "INSERT INTO meta VALUES ('test', 'b')"]
    with Database.open(path, read_only=True) as store:
        with store.snapshot():
            store.release()  # not while what is read belongs together
            assert labels(store) == ["a"]
            assert subprocess.run(insert, capture_output=True, check=False).returncode
            assert labels(store) == ["a"]
        store.release()
        assert labels(store) == ["a"]
        store.release()
        subprocess.run(insert, check=True)
        with pytest.raises(StoreError) as caught:
            labels(store)
        assert str(caught.value) == f"{path} changed while it was read; start the same command again"
    with Database.open(path, read_only=True) as store:
        assert labels(store) == ["a", "b"]


def test_a_store_that_is_moved_in_use_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with Database.open(path, create=True) as store:
        store.release()
        path.rename(tmp_path / "moved.duckdb")
        with pytest.raises(StoreError) as caught:
            note(store, "lost")
        assert str(caught.value).startswith(f"{path} was moved, removed or replaced while it was in use")
        assert not path.exists()


def test_links_to_a_store_share_its_lock(tmp_path: Path) -> None:
    path, link = tmp_path / "s.duckdb", tmp_path / "elsewhere" / "link.duckdb"
    Database.open(path, create=True).close()
    link.parent.mkdir()
    link.symlink_to(path)
    assert lock_file(link) == lock_file(path) == tmp_path / "s.duckdb.lock"


# Transactions


def labels(store: Database) -> list[str]:
    return [value for (value,) in store.rows("SELECT value FROM meta WHERE key = 'test' ORDER BY value")]


def note(store: Database, value: str) -> None:
    store.execute("INSERT INTO meta VALUES ('test', ?)", [value])


def test_a_transaction_commits_everything(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with Database.open(path, create=True) as store, store.transaction():
        note(store, "a")
        note(store, "b")
    with Database.open(path) as store:
        assert labels(store) == ["a", "b"]


def test_what_a_brief_process_commits_is_in_the_file_and_merged_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    texts = pa.array([f"{number:050}" for number in range(30_000)])
    rows = pa.table({"query_id": texts, "doc_id": texts})
    Database.open(path, create=True).close()
    for number in range(3):
        with Database.open(path, brief=True) as store:
            with store.transaction():
                store.insert("training_positives", rows, model=str(number))
            assert path.stat().st_size > (number + 1) * 250_000
            assert not Path(f"{path}.wal").exists() or not Path(f"{path}.wal").stat().st_size
        with Database.open(path, read_only=True) as store:
            found = store.rows("SELECT model, count(*) FROM training_positives GROUP BY model ORDER BY model")
        assert found == [(str(one), 30_000) for one in range(number + 1)]
    pieces = "SELECT count(DISTINCT row_group_id) FROM pragma_storage_info('training_positives')"
    with Database.open(path) as store:
        assert store.rows(pieces) == [(3,)]
        with store.transaction():
            store.insert("training_positives", rows.slice(0, 1), model="3")
    with Database.open(path, read_only=True) as store:
        assert store.rows(pieces) < [(3,)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
        note(store, "before")
        with pytest.raises(error), store.transaction():  # noqa: PT012
            note(store, "a")
            raise error
        assert labels(store) == ["before"]
        with store.transaction():
            note(store, "after")
        assert labels(store) == ["after", "before"]


def test_a_statement_that_fails_rolls_the_transaction_back(tmp_path: Path) -> None:
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
        with pytest.raises(duckdb.ConstraintException), store.transaction():  # noqa: PT012
            note(store, "a")
            store.execute("INSERT INTO meta VALUES ('test', NULL)")
        assert labels(store) == []
        note(store, "later")
        assert labels(store) == ["later"]


# Tables in and out


def test_an_insert_matches_columns_by_name_and_adds_constants(tmp_path: Path) -> None:
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
        table = pa.table({"score": [0.5], "doc_id": ["007"], "query_id": ["q"]})
        store.insert("rerank_scores", table, reranker='it\'s "quoted"; DROP TABLE hits')
        assert store.rows("SELECT reranker, query_id, doc_id, score FROM rerank_scores") == [
            ('it\'s "quoted"; DROP TABLE hits', "q", "007", 0.5)
        ]
        assert store.table("SELECT doc_id FROM rerank_scores")["doc_id"].to_pylist() == ["007"]


def test_dictionary_ids_arrive_as_text(tmp_path: Path) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int32()), pa.array(["a", "b"]))
    table = pa.table({"query_id": ids, "doc_id": ids, "score": [0.1, 0.2, 0.3]})
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
        store.insert("rerank_scores", table, reranker="s")
        assert store.rows("SELECT query_id FROM rerank_scores ORDER BY score") == [("b",), ("a",), ("b",)]


def test_a_failed_insert_leaves_the_store_usable(tmp_path: Path) -> None:
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
        with pytest.raises(duckdb.Error):
            store.insert("hits", pa.table({"nobody": [1]}), search="s")
        store.insert("rejected", pa.table({"line": pa.array([3])}), origin="f", reason="r", detail="d")
        assert store.rows("SELECT * FROM rejected") == [("f", 3, "r", "d")]


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=15)
@given(st.lists(st.tuples(texts, st.integers(-(2**63), 2**63 - 1), st.none() | texts), max_size=20))
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, str]]
) -> None:
    with Database.open(tmp_path_factory.mktemp("s") / "s.duckdb", create=True) as store:
        store.insert(
            "queries",
            pa.table(
                {
                    "query_id": [f"{i:03}" for i in range(len(rows))],
                    "text": pa.array([text for text, _, _ in rows], pa.string()),
                    "text_key": np.array([key for _, key, _ in rows], dtype=np.int64),
                    "label": pa.array([label for _, _, label in rows], pa.string()),
                }
            ),
        )
        assert store.rows("SELECT text, text_key, label FROM queries ORDER BY query_id") == rows


def test_values_are_bound_by_position_and_by_name(tmp_path: Path) -> None:
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
        assert store.table("SELECT ? AS a, ? AS b", [1, "x'; --"]).to_pylist() == [{"a": 1, "b": "x'; --"}]
        assert store.table("SELECT $one AS a, $one AS b", {"one": 5}).to_pylist() == [{"a": 5, "b": 5}]


def test_python_variables_are_out_of_reach_of_sql(tmp_path: Path) -> None:
    secret = pa.table({"a": [1]})
    with Database.open(tmp_path / "s.duckdb", create=True) as store, pytest.raises(duckdb.CatalogException):
        store.rows("SELECT * FROM secret")
    assert secret.num_rows == 1


# The corpus


def test_documents_and_queries_come_sorted_by_id_with_the_title_before_the_text(tmp_path: Path) -> None:
    store = make_store(
        tmp_path / "s.duckdb",
        {"b": "Two", "a10": "ten", "a9": "nine", "é": "e", "Z": "z"},
        {"q2": "second", "q1": "first", "q3": "of another split", "q4": "unjudged"},
        [("q2", "b"), ("q1", "Z"), ("q1", "b"), ("q3", "a9", "dev")],
    )
    with store:
        store.execute("UPDATE documents SET title = 'Title' WHERE doc_id = 'b'")
        documents = corpus.documents(store)
        assert documents["doc_id"].to_pylist() == ["Z", "a10", "a9", "b", "é"]
        texts = pa.Table.from_batches(list(corpus.document_texts(store)))
        assert texts["text"].to_pylist() == ["z", "ten", "nine", "Title Two", "e"]
        assert corpus.queries(store, "train")["query_id"].to_pylist() == ["q1", "q2"]
        assert corpus.queries(store, "dev")["query_id"].to_pylist() == ["q3"]
        assert corpus.splits(store) == ["dev", "train"]
        assert corpus.known_positives(store).num_rows == 4
        assert corpus.positives(store, "train").to_pylist() == [
            {"query_id": "q1", "doc_id": "Z"},
            {"query_id": "q1", "doc_id": "b"},
            {"query_id": "q2", "doc_id": "b"},
        ]
        with pytest.raises(UsageError) as caught:
            corpus.queries(store, "trian")
        assert str(caught.value) == (
            "no query has a judged positive in split 'trian' (did you mean 'train'?); "
            "choose another split: dev, train"
        )


CONTENT = {
    "document text": "UPDATE documents SET text = text || '.' WHERE doc_id = 'd1'",
    "document id": "UPDATE documents SET doc_id = 'd9' WHERE doc_id = 'd2'",
    "document title": "UPDATE documents SET title = 'T' WHERE doc_id = 'd1'",
    "document label": "UPDATE documents SET label = 'l' WHERE doc_id = 'd1'",
    "document gone": "DELETE FROM documents WHERE doc_id = 'd2'",
    "texts swapped": "UPDATE documents SET text = CASE doc_id WHEN 'd1' THEN 'two' ELSE 'one' END",
    "query text": "UPDATE queries SET text = 'other' WHERE query_id = 'q1'",
    "judgment relevance": "UPDATE judgments SET relevance = 2 WHERE query_id = 'q1'",
    "judgment added": "INSERT INTO judgments VALUES ('q1', 'd2', 0, 'train', 'gold')",
    "judgment of another split": "INSERT INTO judgments VALUES ('q1', 'd2', 1, 'dev', 'gold')",
}


@pytest.mark.parametrize("change", CONTENT)
def test_any_change_of_content_is_another_hash(tmp_path: Path, change: str) -> None:
    with make_store(
        tmp_path / "s.duckdb", {"d1": "one", "d2": "two"}, {"q1": "first"}, [("q1", "d1")]
    ) as store:
        before = corpus.content_hashes(store, "train")
        store.execute(CONTENT[change])
        after = corpus.content_hashes(store, "train")
    part = {"document": "documents", "texts": "documents", "query": "queries", "judgment": "judgments"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {part[change.split()[0]]}


def test_the_order_of_rows_and_unmined_queries_do_not_change_the_hashes(tmp_path: Path) -> None:
    documents = {f"d{i}": f"text {i}" for i in range(50)}
    judgments = [("q1", "d1"), ("q1", "d2"), ("q2", "d3")]
    queries = {"q1": "first", "q2": "second"}
    found = []
    for name, docs, extra in (
        ("a", documents, {}),
        ("b", dict(reversed(documents.items())), {"q9": "unjudged"}),
    ):
        with make_store(tmp_path / name, docs, {**queries, **extra}, judgments) as store:
            found.append(corpus.content_hashes(store, "train"))
    assert found[0] == found[1]


def test_rows_that_are_doubled_do_not_cancel_out(tmp_path: Path) -> None:
    """One judgment from two sources against another one from two sources."""
    found = []
    for name, doc in (("a", "d1"), ("b", "d2")):
        with make_store(
            tmp_path / name, {"d1": "one", "d2": "two"}, {"q1": "first"}, [("q1", doc), ("q1", doc)]
        ) as store:
            found.append(corpus.content_hashes(store, "train")["judgments"])
    assert found[0] != found[1]


def test_an_unknown_query_is_named_with_the_nearest(tmp_path: Path) -> None:
    with make_store(tmp_path / "s.duckdb", {"d1": "one"}, {"query-1": "first"}, [("query-1", "d1")]) as store:
        assert corpus.require_query(store, "query-1") == "first"
        with pytest.raises(StoreError) as caught:
            corpus.require_query(store, "query-l")
        assert caught.value.message == f"no query 'query-l' in {store.path} (did you mean 'query-1'?)"


def test_a_text_instead_of_an_id_gets_the_ids_of_the_queries_that_contain_it(tmp_path: Path) -> None:
    queries = {"a1": "How do I cut bread?", "b2": "Can I cut bread at home?", "c3": "How do refunds work?"}
    with make_store(
        tmp_path / "s.duckdb", {"d1": "one"}, queries, [(query_id, "d1") for query_id in queries]
    ) as store:

        def hint(query_id: str) -> str:
            with pytest.raises(StoreError, match="no query '") as caught:
                corpus.require_query(store, query_id)
            return caught.value.hint

        by_id = "a query is named by its id; queries with this text: "
        assert hint("how do  REFUNDS work?") == f"{by_id}c3 (How do refunds work?)"
        assert hint("cut bread") == f"{by_id}a1 (How do I cut bread?); b2 (Can I cut bread at home?)"
        list_them = f'list them: miner sql {store.path} "SELECT query_id, text FROM queries'
        assert hint("what costs delivery?") == f"{list_them} WHERE text ILIKE '%delivery%' LIMIT 10\""
        assert hint("zzz") == f'{list_them} LIMIT 10"'
        assert hint("d1") == f'it is the id of a document; {list_them} LIMIT 10"'
        assert hint("a2") == f'{list_them} LIMIT 10"'


def test_an_empty_store_says_to_ingest_first(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    Database.open(path, create=True).close()
    hint = f"ingest first: miner ingest {path} SOURCE"
    for words in (
        ["mine", path], ["decide", path], ["evaluate", "bundled", path], ["audit", path], ["calibrate", path],
        ["relabel", path], ["explain", path, "q"], ["export", path, "out"], ["train", path, "out"],
        ["train", path, "out", "--judgments", "gold"], ["bench", path], ["loop", path, "out"],
        ["silver", path], ["train-reranker", path, "out"], ["contamination", path, path], ["dedup", path],
        ["decide", path, "--run", "r1"], ["runs", path, "--remove", "r1"],
    ):  # fmt: skip
        result = CliRunner().invoke(group, [str(word) for word in words])
        assert isinstance(result.exception, MinerError), words
        assert hint in result.exception.hint, words
    assert hint in CliRunner().invoke(group, ["runs", str(path)]).stderr
