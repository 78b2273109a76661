"""Candidates of other tools as a retriever: the same hits and scores as a plain dict gives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.cli.main import group
from miner.collection.collection import Collection
from miner.collection.given import CANDIDATES, Candidates
from miner.door.store import triplets
from miner.errors import InputError
from miner.retrieval.imported import Imported
from miner.sources.candidates import read_candidates

Scores = Mapping[tuple[str, str], float]


class Notes:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Any:
        yield lambda _: None

    def note(self, message: str) -> None:
        self.notes.append(message)


def collection(documents: Sequence[str], queries: Sequence[str]) -> Collection:
    return Collection(
        pa.table({"doc_id": sorted(documents), "text": ["…"] * len(documents)}),
        pa.table({"query_id": sorted(queries), "text": ["…"] * len(queries)}),
        {},
        "train",
    )


def candidates(scores: Scores, ranks: Mapping[tuple[str, str], int] | None = None) -> Candidates:
    """Candidates with scores, or with ranks alone if `scores` is empty."""
    pairs = list(scores or ranks or {})
    table = pa.table(
        {
            "query_id": pa.array([query for query, _ in pairs], pa.string()),
            "doc_id": pa.array([doc for _, doc in pairs], pa.string()),
            "rank": pa.array([(ranks or {}).get(pair) for pair in pairs], pa.int32()),
            "score": pa.array([scores.get(pair) for pair in pairs], pa.float64()),
        }
    )
    return Candidates("run", table.cast(CANDIDATES), "digest")


def best(scores: Scores, query: str, depth: int, documents: Sequence[str]) -> list[tuple[str, float]]:
    """The plain computation: a query's known documents, by score, then id."""
    found = [(doc, score) for (owner, doc), score in scores.items() if owner == query and doc in documents]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:depth]


IDS = st.sampled_from([f"{letter}{number}" for letter in "xyz" for number in (1, 2, 10, 11)])
SCORES = st.dictionaries(
    st.tuples(IDS, IDS),
    st.one_of(st.integers(-2, 2).map(float), st.floats(-1e9, 1e9)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(SCORES, st.sets(IDS, min_size=1), st.sets(IDS, min_size=1), st.integers(1, 6), st.integers(1, 4))
def test_hits_and_scores_are_those_of_a_dict(
    scores: dict[tuple[str, str], float], documents: set[str], queries: set[str], depth: int, chunk: int
) -> None:
    known = {(q, d): score for (q, d), score in scores.items() if q in queries and d in documents}
    texts = collection(list(documents), list(queries))
    if not known:
        with pytest.raises(InputError):
            Imported(texts, candidates(scores), name="run")
        return
    retriever = Imported(texts, candidates(scores), name="run")
    doc_ids, query_ids = texts.doc_ids.to_pylist(), texts.query_ids.to_pylist()
    for start in range(0, len(query_ids), chunk):
        chosen = range(start, min(start + chunk, len(query_ids)))
        hits = retriever.search(chosen, depth)
        expected = [
            (number, doc, rank, score)
            for number in chosen
            for rank, (doc, score) in enumerate(best(known, query_ids[number], depth, doc_ids), 1)
        ]
        columns = (hits.query, [doc_ids[doc] for doc in hits.doc], hits.rank, hits.score)
        assert list(zip(*(list(column) for column in columns), strict=True)) == expected
    pairs = [(q, d) for q in range(len(query_ids)) for d in range(len(doc_ids))]
    query, doc = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    plain = [scores.get((query_ids[q], doc_ids[d]), math.nan) for q, d in pairs]
    np.testing.assert_array_equal(retriever.score_pairs(query, doc), plain)


def test_ranks_alone_give_negated_ranks_as_scores() -> None:
    ranks = {("q", "a"): 7, ("q", "b"): 2, ("q", "c"): 2, ("q", "d"): 0}
    retriever = Imported(collection("abcd", ["q"]), candidates({}, ranks), name="run")
    hits = retriever.search(range(1), 3)
    assert hits.doc.tolist() == [3, 1, 2]
    assert hits.rank.tolist() == [1, 2, 3]
    assert hits.score.tolist() == [0, -2, -2]
    assert retriever.score_pairs(np.array([0, 0]), np.array([0, 1])).tolist() == [-7, -2]


def test_a_retriever_has_a_name_a_kind_and_the_digest_of_its_file(tmp_path: Path) -> None:
    lines = "q Q0 a 1 2.0 x\nq Q0 b 2 1.0 x\n"
    one, moved, other = (tmp_path / name for name in ("one.run", "moved.run", "other.run"))
    one.write_text(lines)
    moved.write_text(lines)
    other.write_text(lines.replace("1.0", "1.5"))
    texts = collection("ab", ["q"])
    made = [Imported(texts, read_candidates(path), name=path.stem) for path in (one, moved, other)]
    assert [retriever.name for retriever in made] == ["one", "moved", "other"]
    assert (made[0].kind, made[0].proposes) == ("imported", True)
    assert made[0].inputs() == made[1].inputs() != made[2].inputs()


def test_no_pairs_have_no_scores() -> None:
    retriever = Imported(collection("a", ["q"]), candidates({("q", "a"): 1.0}), name="run")
    nothing = np.zeros(0, dtype=np.int32)
    assert retriever.score_pairs(nothing, nothing).tolist() == []
    assert retriever.search(range(0), 5).doc.tolist() == []


def test_a_sample_of_the_queries_is_called_so() -> None:
    """A query that was not drawn is in the split all the same."""
    notes, drawn = Notes(), replace(collection("a", ["q1"]), hashes={"queries": "9f/1/13"})
    given = candidates({("q1", "a"): 1.0, ("q2", "a"): 3.0})
    Imported(drawn, given, name="run", progress=notes)
    assert notes.notes == [
        "run: 1 candidate left out: 1 query (q2) is not among the queries of this run, a sample of split "
        "train"
    ]
    with pytest.raises(InputError, match="is among the queries of this run, a sample of split train"):
        Imported(drawn, candidates({("q2", "a"): 1.0}), name="run")


def test_unknown_ids_are_counted_and_listed() -> None:
    notes = Notes()
    scores = {("q1", "a"): 1.0, ("q1", "b"): 2.0, ("q8", "a"): 3.0, ("q9", "c"): 4.0}
    Imported(collection("a", ["q1", "q2"]), candidates(scores), name="run", progress=notes)
    assert notes.notes == [
        "run: 3 candidates left out: 2 queries (q8, q9) are not among the queries of split train; "
        "2 documents (b, c) are not in the store",
        "run: 1 of 2 queries of split train has no candidates",
    ]


def test_ranks_that_contradict_the_scores_are_reported() -> None:
    notes = Notes()
    distances = {("q1", "a"): 0.1, ("q1", "b"): 0.5, ("q2", "a"): 0.5, ("q2", "b"): 0.1, ("q3", "a"): 0.0}
    ranks = {("q1", "a"): 1, ("q1", "b"): 2, ("q2", "a"): 1, ("q2", "b"): 2, ("q3", "a"): 1}
    texts = collection("ab", ["q1", "q2", "q3"])
    retriever = Imported(texts, candidates(distances, ranks), name="run", progress=notes)
    assert retriever.search(range(1), 2).doc.tolist() == [1, 0]
    assert notes.notes == [
        "warning: run: for 1 of 3 queries, a candidate with a better rank has a lower score; "
        "the scores decide (negate distances)"
    ]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            {("Q-01", "a"): 1.0},
            "run: none of its queries (Q-01) is among the queries of split train (q-01, q-02) "
            "(did you mean 'q-01'?)",
        ),
        ({("q-01", "A"): 1.0}, "run: none of its documents (A) is among the documents of the store (a, b)"),
        (
            {("q-01", "c"): 1.0, ("q-03", "a"): 1.0},
            "run: no candidate has both one of the queries of split train and a document of the store",
        ),
    ],
)
def test_a_file_of_another_collection_is_refused(scores: Scores, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Imported(collection("ab", ["q-01", "q-02"]), candidates(scores), name="run")
    assert caught.value.message.startswith(message)


# Mined elsewhere, decided here

QUERIES, DOCUMENTS, MINED = 12, 40, 25


@pytest.fixture(scope="module")
def lists(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, dict[str, float]], dict[str, set[str]]]:
    """A set with lists: its folder, the scores of each query, and its positives; some have two rows."""
    folder, rng = tmp_path_factory.mktemp("lists"), np.random.default_rng(17)
    scores: dict[str, dict[str, float]] = {}
    positives: dict[str, set[str]] = {}
    rows: dict[str, list[Any]] = {"query_id": [], "document_ids": [], "scores": []}
    for query in range(QUERIES):
        # Few distinct values: ties, and scores exactly at the margin.
        values = (rng.integers(60, 100, DOCUMENTS) / 100).astype(np.float32)
        chosen = rng.choice(DOCUMENTS, MINED + 2, replace=False)
        relevant = chosen[: 1 + query % 2]
        mined = chosen[2:]
        for positive in relevant:
            row = [positive, *mined]
            rows["query_id"].append(query)
            rows["document_ids"].append(row)
            rows["scores"].append(values[row])
        pairs = {str(doc): float(values[doc]) for doc in [*relevant, *mined]}
        scores[str(query)], positives[str(query)] = pairs, {str(doc) for doc in relevant}
    words = [f"word{number}" for number in range(4000)]
    texts = iter([" ".join(words[start : start + 9]) for start in range(0, 4000, 9)])
    tables = {
        "queries": pa.table({"query_id": range(QUERIES), "query": [next(texts) for _ in range(QUERIES)]}),
        "documents": pa.table(
            {"document_id": range(DOCUMENTS), "document": [next(texts) for _ in range(DOCUMENTS)]}
        ),
        "scores": pa.table(
            {
                "query_id": rows["query_id"],
                "document_ids": pa.array(rows["document_ids"], pa.list_(pa.int64())),
                "scores": pa.array(rows["scores"], pa.list_(pa.float32())),
            }
        ),
    }
    for name, table in tables.items():
        (folder / name).mkdir()
        pq.write_table(table, folder / name / "fiqa-00000-of-00001.parquet")
    return folder, scores, positives


def negatives(scores: dict[str, float], positives: set[str], margin: float, number: int) -> list[str]:
    """The rule in plain Python: mined documents that score at most (1 - margin) of the lowest positive."""
    lowest = min(scores[doc] for doc in positives)
    kept = [doc for doc in scores if doc not in positives and scores[doc] <= lowest - abs(lowest) * margin]
    return sorted(kept, key=lambda doc: (-scores[doc], doc))[:number]


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_a_rule_over_imported_scores_is_the_plain_computation(
    lists: tuple[Path, dict[str, dict[str, float]], dict[str, set[str]]], margin: float
) -> None:
    folder, scores, positives = lists
    texts = collection([str(n) for n in range(DOCUMENTS)], list(scores))
    retriever = Imported(texts, read_candidates(folder), name="lists")
    doc_ids = texts.doc_ids.to_pylist()
    hits = retriever.search(range(QUERIES), DOCUMENTS)
    for number, query in enumerate(texts.query_ids.to_pylist()):
        relevant = np.array([doc_ids.index(doc) for doc in positives[query]], dtype=np.int32)
        lowest = retriever.score_pairs(np.full(len(relevant), number, dtype=np.int32), relevant).min()
        mine = hits.query == number
        kept = (hits.score[mine] <= lowest - abs(lowest) * margin) & ~np.isin(hits.doc[mine], relevant)
        found = [doc_ids[doc] for doc in hits.doc[mine][kept][:5]]
        assert found == negatives(scores[query], positives[query], margin, 5)


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_mine_decides_over_a_set_with_scores_as_the_plain_computation(
    lists: tuple[Path, dict[str, dict[str, float]], dict[str, set[str]]], tmp_path: Path, margin: float
) -> None:
    folder, scores, positives = lists
    store = tmp_path / "set.duckdb"
    options = ["--no-bm25", "--candidates", str(folder), "--depth", str(DOCUMENTS), "--negatives", "5"]
    for words in (
        ["ingest", str(store), str(folder)],
        ["mine", str(store), *options, "--relative-margin", str(margin)],
    ):
        result = CliRunner().invoke(group, words)
        assert result.exit_code == 0, result.output
    found: dict[tuple[str, str], list[str]] = {}
    for row in triplets(store).to_pylist():
        found.setdefault((row["query_id"], row["positive_id"]), []).append(row["negative_id"])
    expected = {
        (query, positive): chosen
        for query in scores
        for positive in positives[query]
        if (chosen := negatives(scores[query], positives[query], margin, 5))
    }
    assert found == expected


def test_mine_decides_over_flagembedding_rows_with_scores(tmp_path: Path) -> None:
    rows = [
        {
            "query": f"question {letter} about {letter * 5}",
            "pos": [f"answer {letter} one two three four"],
            "neg": [f"passage {letter} {number} alpha beta gamma" for number in "123"],
            "pos_scores": [0.8],
            "neg_scores": [0.79, 0.5, 0.7],
        }
        for letter in "ab"
    ]
    file, store = tmp_path / "scored.jsonl", tmp_path / "s.duckdb"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in (
        ["ingest", str(store), str(file)],
        ["mine", str(store), "--no-bm25", "--candidates", str(file), "--negatives", "2"],
    ):
        result = CliRunner().invoke(group, words)
        assert result.exit_code == 0, result.output
    texts = [row["negative"] for row in triplets(store, texts=True).to_pylist()]
    assert sorted(texts) == sorted(row["neg"][at] for row in rows for at in (1, 2))
