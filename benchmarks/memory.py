"""How much memory does mining take, against `mine_hard_negatives`, when all vectors are known?

200,000 documents of 30 random words and 20,000 queries with one positive each, random unit vectors of
384 dimensions; a query's vector leans towards its positive's (cosine about 0.5), so that negatives
pass the margin. Both systems find the same vectors in their caches, and mine dense candidates at depth
50, 5 negatives, relative margin 0.05. It measures the largest resident set of the whole process, files
mapped into memory included, and its seconds.

Target: at most 0.45 x the peer's peak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from common import Goal, Report, alternate, parser, ratios, report, scratch
from corpora import BUNDLED_FOLDER, Beir, Vectorised, new_store
from peer import Texts, fill_cache, load_encoder
from systems import Outcome, mine, peer, summary

from miner.models.encoder import Vectors

DEPTH = 50
DIMENSION = 384
WORDS = 30
OF_PEER = Goal("peak memory over the peer's", "<=", 0.45, " x")
_BLOCK = 10_000


def random_texts(number: int, prefix: str, random: np.random.Generator) -> dict[str, str]:
    """Returns texts of 30 random words by id; none twice, as each names its number."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(row) for row in letters[random.integers(0, 26, (20_000, 7))]])
    picked = words[random.integers(0, len(words), (number, WORDS - 1))]
    return {f"{prefix}{i:06d}": f"{prefix}{i} {' '.join(row)}" for i, row in enumerate(picked)}


def random_data(documents: int, queries: int, seed: int) -> Beir:
    """Returns random documents and queries, one positive per query."""
    random = np.random.default_rng(seed)
    corpus, queries_by_id = random_texts(documents, "d", random), random_texts(queries, "q", random)
    return Beir(corpus, queries_by_id, list(zip(queries_by_id, list(corpus)[:queries], strict=True)))


def unit(vectors: Vectors) -> Vectors:
    """Returns rows of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


def vectorise(data: Beir, vectors: Vectorised, seed: int) -> None:
    """Puts random vectors where the encoder's would be, queries first, as miner writes them."""
    random = np.random.default_rng(seed + 1)
    documents = unit(random.standard_normal((len(data.documents), DIMENSION), dtype=np.float32))
    noise = unit(random.standard_normal((len(data.queries), DIMENSION), dtype=np.float32))
    queries = unit(documents[: len(data.queries)] + 1.7 * noise)
    for side, texts, rows in (("query", data.queries, queries), ("document", data.documents, documents)):
        listed = list(texts.values())
        for start in range(0, len(listed), _BLOCK):
            vectors.put(side, listed[start : start + _BLOCK], rows[start : start + _BLOCK])


def add_rows(found: Report, outcomes: dict[str, list[Outcome]], about: dict[str, Any]) -> None:
    """Adds a row per system, with its seconds too, and the ratio of the peaks."""
    for name, results in outcomes.items():
        figures = summary(results)
        found.row(f"{name}: peak GiB", figures, value=figures["peak_gib"]["median"], **about)
        found.row(f"{name}: seconds", figures, value=figures["seconds"]["median"], **about)
    peaks = {name: [o.took.peak_bytes for o in results] for name, results in outcomes.items()}
    ratio = ratios(peaks["miner"], peaks["peer"])
    found.row("miner / peer", {"ratio": ratio}, goal=OF_PEER, value=ratio["median"], **about)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--documents", type=int, default=200_000, help="fewer: a trial [200000]")
    arguments.add_argument("--queries", type=int, default=20_000, help="fewer: a trial [20000]")
    given = arguments.parse_args()
    found = report("memory", given, full_size=given.documents >= 200_000 and given.queries >= 20_000)
    with scratch(given.work) as folder:
        data = random_data(given.documents, given.queries, given.seed)
        written = data.write(folder / "data")
        store = new_store(folder / "store.duckdb", written)
        vectors = Vectorised(store)
        vectorise(data, vectors, given.seed)
        texts, model = Texts.read(written), load_encoder(str(BUNDLED_FOLDER), "fp32")
        rows = vectors.of("query", texts.distinct_queries), vectors.of("document", texts.distinct_corpus)
        fill_cache(folder / "cache", model, texts, rows)
        systems: dict[str, Callable[[int], Outcome]] = {
            "miner": lambda _: mine(store, DEPTH, vectors=True),
            "peer": lambda _: peer(written, DEPTH, "--cache", folder / "cache"),
        }
        add_rows(found, alternate(systems, given.repeats), data.sizes())
    found.show()


if __name__ == "__main__":
    main()
