"""Documents cut into chunks: nothing is lost, judgments go to chunks, and chunks of a positive's document."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from miner.auditing.audit import audit
from miner.auditing.config import AuditConfig
from miner.cli.main import group
from miner.collection.collection import Collection
from miner.collection.exclusion import Exclusions
from miner.errors import InputError, UsageError
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.schema import CODES, FREE, Reason
from miner.sources import SourceConfig, ingest
from miner.sources.chunks import Chunking
from miner.store import corpus
from miner.store.chunks import best_chunk
from miner.store.database import Database
from tests.sources_support import beir, jsonl, refused, rows, write

WORDS = st.sampled_from(["tea", "Rome.", "«why?»", "これは本です。", "a", "Dr.", "x!", "12", "ไทยแลนด์"])
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", "\n", "\n\n", "  \t"]))).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)


@given(TEXTS, st.sampled_from(["words", "sentences"]), st.integers(1, 9), st.integers(0, 8))
def test_chunks_cover_the_text(text: str, unit: str, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    chunking = Chunking(unit, size, overlap, "bundled")
    spans = chunking.spans(text)
    covered = np.zeros(len(text), dtype=bool)
    for start, stop in spans:
        covered[start:stop] = True
    assert all(covered[at] or letter.isspace() for at, letter in enumerate(text))
    assert spans == sorted(spans)
    units = chunking._units(text)
    if len(units) <= size:
        assert spans == [(0, len(text))]
        return
    inside = [[one for one in units if start <= one[0] and one[1] <= stop] for start, stop in spans]
    assert all(len(found) == size for found in inside[:-1])
    assert overlap < len(inside[-1]) <= size
    for one, other in pairwise(inside):
        assert one[len(one) - overlap :] == other[:overlap]


def test_chunks_of_tokens() -> None:
    text = "Antidisestablishmentarianism เที่ยว é ﷽ \U0001f469\u200d\U0001f680! " * 9 + "\u0e33\u0e33"
    chunking = Chunking("tokens", 16, 4, "bundled")
    spans = chunking.spans(text)
    covered = {at for start, stop in spans for at in range(start, stop)}
    assert {at for at, letter in enumerate(text) if not letter.isspace()} <= covered
    assert len(spans) > 5
    assert all(other[0] < one[1] for one, other in pairwise(spans))
    assert chunking.spans("short") == [(0, 5)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("これは本です。とても良い！はい", ["これは本です。", "とても良い！", "はい"]),
        ("Title\n\nA text of 3.5 kg", ["Title", "A text of 3.5 kg"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    spans = Chunking("sentences", 1, 0, "bundled").spans(text)
    assert [text[start:stop] for start, stop in spans] == sentences


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": "words"}, "chunk must be words:N, sentences:N, tokens:N, got 'words'"),
        ({"chunk": "letters:3"}, "got 'letters:3'"),
        ({"chunk": "words:0"}, "got 'words:0'"),
        ({"overlap": 5}, "overlap has no effect without chunk"),
        ({"chunk": "words:5", "chunk_tokenizer": "x"}, "chunk_tokenizer has no effect without chunk=tokens"),
        ({"chunk": "words:5", "overlap": 5}, "overlap must be below the size of a chunk"),
        ({"chunk": "words:5", "queries_are_documents": True}, "exclude each other"),
        ({"chunk_positives": "first"}, "chunk_positives"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ingest(tmp_path / "s.duckdb", [{"doc_id": "a", "text": "b"}], SourceConfig(**settings))  # type: ignore[arg-type]
    assert not (tmp_path / "s.duckdb").exists()


LONG = "Cats sleep all day. Tea comes from Asia. The kettle whistles. Rome is old."
QUERIES = {"q1": "where is tea from", "q2": "how old is Rome", "q3": "zzz", "q4": "tea"}
QRELS = [("q1", "long", 2), ("q2", "long", 0), ("q3", "long", 1), ("q4", "short", 1)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    documents = {"long": ("Notes", LONG), "short": "Tea is a drink."}
    return beir(tmp_path / "b", documents, QUERIES, train=QRELS)


def test_judgments_go_to_chunks(source: Path, tmp_path: Path) -> None:
    store, config = tmp_path / "s.duckdb", SourceConfig(chunk="sentences:1")
    report = ingest(store, str(source), config)
    assert (report.cut, report.all_chunks, report.rejected) == (1, 1, ())
    assert rows(store, "SELECT doc_id, title, text FROM documents ORDER BY doc_id") == [
        ("long#1", "Notes", "Cats sleep all day."),
        ("long#2", "Notes", "Tea comes from Asia."),
        ("long#3", "Notes", "The kettle whistles."),
        ("long#4", "Notes", "Rome is old."),
        ("short", "", "Tea is a drink."),
    ]
    parents = rows(store, "SELECT doc_id, parent, number, start FROM parents ORDER BY number")
    assert parents == [
        (f"long#{number}", "long", number, start) for number, start in enumerate((0, 20, 41, 62), start=1)
    ]
    every = [f"long#{number}" for number in range(1, 5)]
    assert rows(store, "SELECT query_id, doc_id, relevance FROM judgments ORDER BY ALL") == [
        ("q1", "long#2", 2.0),  # the chunk with most words of the query
        *[("q2", chunk, 0.0) for chunk in every],
        *[("q3", chunk, 1.0) for chunk in every],  # nothing says which
        ("q4", "short", 1.0),
    ]
    again = ingest(store, str(source), config)
    assert dict(again.added) == {"documents": 0, "queries": 0, "judgments": 0}
    later = write(tmp_path / "qrels.test.tsv", "query-id\tcorpus-id\tscore\nq2\tlong\t1\n")
    ingest(store, str(later), SourceConfig(format="trec"))
    assert rows(store, "SELECT query_id, doc_id FROM judgments WHERE split = 'test'") == [("q2", "long#4")]


def test_all_chunks_of_a_relevant_document(source: Path, tmp_path: Path) -> None:
    ingest(tmp_path / "s.duckdb", str(source), SourceConfig(chunk="sentences:2", chunk_positives="all"))
    found = rows(tmp_path / "s.duckdb", "SELECT query_id, doc_id FROM judgments WHERE query_id = 'q1'")
    assert sorted(found) == [("q1", "long#1"), ("q1", "long#2")]


def test_the_command_and_another_size(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    words = ["ingest", str(store), str(source), "--set", "chunk=words:4", "--set", "overlap=1"]
    result = CliRunner().invoke(group, words)
    assert result.exception is None, result.output
    lines = result.output.splitlines()
    assert "chunks: 1 document cut" in lines
    assert "no chunk shares a word with the query: all chunks of 1 relevant document are positives" in lines
    other = CliRunner().invoke(group, [*words[:3], "--set", "chunk=words:5"])
    assert "document 'long#1' has two texts" in str(other.exception)


def test_the_best_chunk() -> None:
    assert best_chunk("tea, TEA!", ["a cup", "tea", "tea tea"]) == 1
    assert best_chunk("green tea of Asia", ["tea tea of", "of", "Asia of"]) == 0
    assert best_chunk("返品の方法", ["配送について", "返品はこちら"]) == 1
    assert best_chunk("?", ["a", "b"]) is None


def long_documents(path: Path, number: int = 8) -> Path:
    """Returns a store of documents of four chunks, each with a query about its second chunk."""
    rng = random.Random(3)
    shared = [f"s{one}" for one in range(12)]
    texts = {
        f"d{doc}": " ".join(
            " ".join([f"w{doc}", f"c{doc}{part}", *rng.choices(shared, k=4), "thing."]) for part in range(4)
        )
        for doc in range(number)
    }
    queries = {f"q{doc}": f"w{doc} c{doc}1 thing" for doc in range(number)}
    folder = beir(path.with_suffix(""), texts, queries, train=[(f"q{d}", f"d{d}", 1) for d in range(number)])
    ingest(path, str(folder), SourceConfig(chunk="sentences:1"))
    return path


def test_chunks_of_a_positives_document_are_no_negatives(tmp_path: Path) -> None:
    with Database.open(long_documents(tmp_path / "s.duckdb")) as store:
        free = Rules(relative_margin=None)
        assert store.rows("SELECT DISTINCT doc_id[-2:] FROM judgments") == [("#2",)]
        run = mine(store, MiningConfig(rules=free))
        same = """SELECT count(*) FROM triplets
            WHERE run_id = ? AND split_part(negative_id, '#', 1) = 'd' || query_id[2:]"""
        assert store.rows(same, [run.run_id]) == [(0,)]
        excluded = store.rows(
            "SELECT count(*) FROM dropped WHERE run = ? AND reason = 'same_document'", [run.name]
        )
        assert excluded == [(8 * 3,)]
        allowed = mine(store, MiningConfig(rules=free, same_document="allow"))
        ((number,),) = store.rows(same, [allowed.run_id])
        assert number > 0
        measured = audit(store, run, AuditConfig(share=0.5, repeats=2))
        assert measured.hidden > 0


def test_causes_and_reasons_agree(tmp_path: Path) -> None:
    with Database.open(long_documents(tmp_path / "s.duckdb", 4)) as store:
        collection = Collection.load(store, "train")
        judged = corpus.known_positives(store), corpus.known_negatives(store)
        for same in (True, False):
            exclusions = Exclusions.of(collection, *judged, True, (), same)
            documents, queries = len(collection.doc_ids), len(collection.query_ids)
            query = np.repeat(np.arange(queries), documents).astype(np.int32)
            doc = np.tile(np.arange(documents), queries).astype(np.int32)
            found = np.full(len(query), FREE, dtype=np.int8)
            for reason, at, _ in exclusions.causes(query, doc):
                found[at] = CODES[reason]
            assert np.array_equal(found, exclusions.reasons(query, doc))
            assert (found == CODES[Reason.SAME_DOCUMENT]).sum() == (12 if same else 0)


@pytest.mark.parametrize("first", [None, "words:2"])
def test_a_document_is_not_both_whole_and_in_chunks(tmp_path: Path, first: str | None) -> None:
    file = write(tmp_path / "docs.jsonl", jsonl({"id": "d", "text": "one two three four"}))
    ingest(tmp_path / "s.duckdb", str(file), SourceConfig(chunk=first))
    second = "words:2" if first is None else None
    with pytest.raises(InputError, match="document 'd' would be in the store both whole and in chunks"):
        ingest(tmp_path / "s.duckdb", str(file), SourceConfig(chunk=second))


@pytest.mark.parametrize("text", ["one two", "something else"])
def test_a_document_with_the_id_of_a_chunk_is_refused(text: str, tmp_path: Path) -> None:
    documents = [{"id": "d", "text": "one two three four"}, {"id": "d#1", "text": text}]
    source = write(tmp_path / "docs.jsonl", jsonl(*documents))
    assert refused(tmp_path, source, chunk="words:2") == (
        "document 'd#1' has the id of a chunk of document 'd': DIR/docs.jsonl:1 and DIR/docs.jsonl:2; give "
        "it another id, or ingest documents whole"
    )
    assert ingest(tmp_path / "s.duckdb", str(source)).added["documents"] == 2
    again = write(tmp_path / "again.jsonl", jsonl(documents[0], documents[0]))
    report = ingest(tmp_path / "again.duckdb", str(again), SourceConfig(chunk="words:2"))
    assert report.added["documents"] == 2
