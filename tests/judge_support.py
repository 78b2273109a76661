"""A store with topics, and a judge whose grades are known: for tests of judging."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.store.database import Database
from miner.store.runs import StoredRun
from tests.serving import words_vectors
from tests.stores import make_store

SEED, DIMENSION, THRESHOLD = 1, 64, 0.35
KIND = f"words:{SEED}:{DIMENSION}"
JUDGE = (KIND, "--threshold", str(THRESHOLD))
"""A judge that calls a document relevant if its cosine with the query reaches THRESHOLD."""


def topics(path: Path, number: int = 20, *, documents: int = 6) -> tuple[Database, StoredRun]:
    """Returns a store with a query and two positives per topic, and a run with many suspected positives."""
    rng = random.Random(number)
    words = [[f"w{topic}x{i}" for i in range(12)] for topic in range(number)]
    all_words = [word for of_topic in words for word in of_topic]
    texts, queries, judgments = {}, {}, []
    for topic, own in enumerate(words):
        for n in range(documents):
            texts[f"d{topic}-{n}"] = " ".join(rng.choices(own, k=8) + rng.choices(all_words, k=4))
        queries[f"q{topic}"] = " ".join(rng.choices(own, k=5))
        judgments += [(f"q{topic}", f"d{topic}-0"), (f"q{topic}", f"d{topic}-1")]
    store = make_store(path, texts, queries, judgments)
    return store, mine(store, MiningConfig(rules=Rules(relative_margin=0.3)))


def truth(store: Database) -> dict[tuple[str, str], bool]:
    """Returns what the judge says of every pair of a query and a document of a store."""
    queries = store.rows("SELECT query_id, text FROM queries")
    documents = store.rows("SELECT doc_id, text FROM documents")
    rows = words_vectors([text for _, text in [*queries, *documents]], SEED, DIMENSION).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    relevant = rows[: len(queries)] @ rows[len(queries) :].T >= THRESHOLD
    return {
        (query, doc): bool(relevant[i, j])
        for i, (query, _) in enumerate(queries)
        for j, (doc, _) in enumerate(documents)
    }
