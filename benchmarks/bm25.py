"""How fast is BM25? Top 100 of every train query, against rank-bm25 and plain bm25s.

All three get the same tokens and have their index in memory; what is timed is queries to ranked top
100. Ours breaks ties by doc_id, the others leave them to chance. rank-bm25 is so slow that it answers
a sample of the queries. Index time is reported apart.

Targets: at least 100 x the queries per second of rank-bm25, at least 0.8 x those of plain bm25s.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import TLDR, Figures, Goal, Report, alternate, parser, ratios, report, scratch, spread
from corpora import Beir, new_store

from miner.collection.collection import Collection
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.search import chunk_ranges
from miner.retrieval.terms import Terms
from miner.store.database import Database

DEPTH = 100
OVER_RANK = Goal("queries per second over rank-bm25's", ">=", 100, " x")
OVER_BM25S = Goal("queries per second over plain bm25s'", ">=", 0.8, " x")


@dataclass(frozen=True)
class Tokens:
    """The same tokens for everybody, as texts."""

    documents: list[list[str]]
    queries: list[list[str]]

    @classmethod
    def of(cls, collection: Collection, config: Bm25Config) -> Tokens:
        """Tokenises documents and queries as miner does."""
        every = range(len(collection.doc_ids))
        documents = collection.texts_of(np.array(every)).to_pylist()
        queries = collection.queries["text"].to_pylist()
        return cls(*(Terms(config).of_texts(texts) for texts in (documents, queries)))


def search_ours(index: Bm25, collection: Collection) -> int:
    """Searches all queries in the pipeline's chunks; returns how many hits there were."""
    return sum(len(index.search(chunk, DEPTH).doc) for chunk in chunk_ranges(collection))


def build_ours(collection: Collection, config: Bm25Config) -> Bm25:
    """Builds the index: documents and queries tokenised, weights computed."""
    index = Bm25(collection, config)
    index.search(range(1), 1)
    return index


def build_bm25s(tokens: Tokens, config: Bm25Config, backend: str = "numpy") -> Any:
    """Builds plain bm25s, with every setting but the variant's its own."""
    import bm25s

    index = bm25s.BM25(k1=config.k1, b=config.b, method="lucene", backend=backend)
    index.index(tokens.documents, show_progress=False)
    return index


def search_bm25s(index: Any, queries: list[list[str]]) -> Any:
    """Asks plain bm25s for the top 100 of every query, in one call."""
    return index.retrieve(queries, k=DEPTH, n_threads=0, show_progress=False)


def build_rank(tokens: Tokens, config: Bm25Config) -> Any:
    """Builds rank-bm25's Okapi index."""
    from rank_bm25 import BM25Okapi

    return BM25Okapi(tokens.documents, k1=config.k1, b=config.b)


def search_rank(index: Any, queries: list[list[str]]) -> None:
    """Scores every document for each query and sorts out the top 100, as quickly as NumPy can."""
    for query in queries:
        scores = index.get_scores(query)
        top = np.argpartition(scores, -DEPTH)[-DEPTH:]
        top[np.argsort(-scores[top])]


def agreement(ours: Bm25, plain: Any, tokens: Tokens, sample: int) -> float:
    """Returns the largest difference between the two score lists of the first queries."""
    hits = ours.search(range(sample), DEPTH)
    lists = np.zeros((sample, DEPTH))
    lists[hits.query, hits.rank - 1] = hits.score
    return float(np.abs(lists - search_bm25s(plain, tokens.queries[:sample]).scores).max())


def rate(run: Callable[[], object], queries: int) -> Callable[[int], float]:
    """Returns a system for `alternate`, which gives queries per second."""

    def system(_: int) -> float:
        """Times one pass over the queries."""
        started = time.perf_counter()
        run()
        return queries / (time.perf_counter() - started)

    return system


def build(name: str, make: Callable[[], Any], seconds: dict[str, float]) -> Any:
    """Makes an index and notes how long it took."""
    started = time.perf_counter()
    index = make()
    seconds[name] = round(time.perf_counter() - started, 3)
    return index


def measure(collection: Collection, given: argparse.Namespace, found: Report) -> None:
    """Builds the indexes, searches in turn, adds the rows."""
    config = Bm25Config()
    tokens = Tokens.of(collection, config)
    seconds: dict[str, float] = {}
    ours = build("miner", partial(build_ours, collection, config), seconds)
    plain = build("bm25s", partial(build_bm25s, tokens, config), seconds)
    rank = build("rank-bm25", partial(build_rank, tokens, config), seconds)
    picked = np.random.default_rng(given.seed).permutation(len(tokens.queries))[: given.rank_queries]
    sample = [tokens.queries[i] for i in picked]
    total = len(tokens.queries)
    systems = {
        "miner": rate(partial(search_ours, ours, collection), total),
        "bm25s": rate(partial(search_bm25s, plain, tokens.queries), total),
        "rank-bm25": rate(partial(search_rank, rank, sample), len(sample)),
    }
    if importlib.util.find_spec("numba"):
        compiled = build("bm25s numba", partial(build_bm25s, tokens, config, "numba"), seconds)
        search_bm25s(compiled, tokens.queries[:10])
        systems["bm25s numba"] = rate(partial(search_bm25s, compiled, tokens.queries), total)
    rates = alternate(systems, given.repeats)
    sizes = {"documents": len(tokens.documents), "queries": total, "rank_bm25_queries": len(sample)}
    difference = agreement(ours, plain, tokens, min(200, total))
    add_rows(found, rates, {"settings": sizes, "index_seconds": seconds, "score_difference": difference})


def add_rows(found: Report, rates: dict[str, list[float]], about: Figures) -> None:
    """Adds a row per system and the ratios."""
    sizes = about["settings"]
    for name, values in rates.items():
        figures = {"queries_per_second": spread(values), "index_seconds": about["index_seconds"][name]}
        note = "on a seeded sample of the queries" if name == "rank-bm25" else ""
        found.row(f"{name}: queries per second", figures, value=spread(values)["median"], note=note, **sizes)
    against = {"rank-bm25": OVER_RANK, "bm25s": OVER_BM25S, "bm25s numba": None}
    for name, goal in against.items():
        if name in rates:
            figures = {"ratio": ratios(rates["miner"], rates[name])}
            note = f"largest score difference to bm25s (float32): {about['score_difference']:.2g}"
            found.row(
                f"miner / {name}", figures, goal=goal, value=figures["ratio"]["median"], note=note, **sizes
            )
        else:
            found.row(f"miner / {name}", {}, note="numba is not installed", **sizes)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--queries", type=int, help="only this many train queries: a trial [all]")
    arguments.add_argument("--rank-queries", type=int, default=100, help="queries for rank-bm25 [100]")
    given = arguments.parse_args()
    found = report("bm25", given, full_size=given.queries is None)
    with scratch(given.work) as folder:
        data = Beir.read(given.data).sample(given.queries, given.seed)
        with Database.open(new_store(folder / "bm25.duckdb", data.write(folder / "data"))) as store:
            measure(Collection.load(store, "train"), given, found)
    found.show()


if __name__ == "__main__":
    main()
