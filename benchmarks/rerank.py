"""How fast is mining with a cross-encoder, against `mine_hard_negatives` with the same one?

A seeded sample of tldr's train queries and the query text with the most positives, all documents as
corpus, depth 30, 5 negatives, relative margin 0.05. Both systems find the encoder's vectors of
every text in their caches, so that the cross-encoder is what is measured; each is a process of its
own, timed from start to end. The peer fetches and scores range_max + the most positives of any
query, for every query, one query at a time in fp32; miner scores the candidates that are not
excluded, and the positives, once each; miner-adaptive stops when a query has its negatives.
--single-positive leaves queries with several positives out: then both systems score about as many
pairs. Without --reranker a small cross-encoder is trained on tldr first, and kept in --work.

Target: at least 4 x as fast as the peer.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from common import TLDR, Goal, alternate, parser, ratios, report, scratch
from corpora import BUNDLED_FOLDER, Beir, drop_store, new_store, warm_store
from peer import Texts, fill_cache, load_encoder
from systems import Outcome, add_rows, mine, peer

from miner.store.database import Database

DEPTH = 30
OVER_PEER = Goal("seconds of the peer over miner's", ">=", 4, " x")
SYSTEMS = ("miner", "miner-adaptive", "peer", "peer-bf16", "miner-fp32")
TRAINING_QUERIES = 400


def trained(work: Path, source: Path, seed: int) -> Path:
    """Returns a small cross-encoder trained on the data; the one in `work` if nothing has changed."""
    from miner.training.reranker import train_reranker
    from miner.training.reranker_config import RerankerConfig

    out = work / f"reranker-{source.name}"
    print(f"training a reranker into {out}, unless it is there …", file=sys.stderr, flush=True)
    with Database.open(new_store(work / "training.duckdb", source)) as store:
        train_reranker(store, out, RerankerConfig(queries=TRAINING_QUERIES, seed=seed), force=True)
    drop_store(work / "training.duckdb")
    return out


def cached(given: Namespace, folder: Path, written: Path, data: Beir) -> tuple[Path, Path]:
    """Returns a store with its vectors beside it, and the peer's cache folder with the same vectors."""
    store, vectors = warm_store(given.work / f"warm-{given.data.name}.duckdb", written, data)
    if "miner-fp32" in given.systems:
        vectors.lend("fp32")
    texts = Texts.read(written)
    rows = vectors.of("query", texts.distinct_queries), vectors.of("document", texts.distinct_corpus)
    fill_cache(folder / "cache", load_encoder(str(BUNDLED_FOLDER), "fp32"), texts, rows)
    return store, folder / "cache"


def systems(
    given: Namespace, written: Path, caches: tuple[Path, Path], reranker: Path
) -> dict[str, Callable[[int], Outcome]]:
    """Returns the requested systems."""
    store, cache = caches
    ours, theirs = ("--reranker", reranker), ("--cache", cache, "--reranker", reranker)
    known: dict[str, Callable[[int], Outcome]] = {
        "miner": lambda _: mine(store, DEPTH, *ours, vectors=True),
        "miner-adaptive": lambda _: mine(store, DEPTH, *ours, "--set", "rerank=adaptive", vectors=True),
        "peer": lambda _: peer(written, DEPTH, *theirs),
        "peer-bf16": lambda _: peer(written, DEPTH, *theirs, "--dtype", "bf16"),
        "miner-fp32": lambda _: mine(store, DEPTH, *ours, "--set", "dtype=fp32", vectors=True),
    }
    return {name: known[name] for name in given.systems}


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--queries", type=int, default=300, help="size of the sample of queries [300]")
    arguments.add_argument("--fraction", type=float, default=1.0, help="share of the data: a trial [1]")
    arguments.add_argument("--single-positive", action="store_true", help="queries with one positive only")
    arguments.add_argument("--reranker", type=Path, help="a cross-encoder's folder [one is trained]")
    arguments.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS[:4]), help="[%(default)s]"
    )
    given = arguments.parse_args()
    found = report("rerank", given, full_size=given.fraction >= 1 and given.queries >= 100)
    with scratch(given.work) as folder:
        reranker = given.reranker or trained(given.work, given.data, given.seed)
        data = Beir.read(given.data)
        data = (data.single_positive() if given.single_positive else data).fraction(
            given.fraction, given.seed
        )
        kept = () if given.single_positive else data.heaviest()
        data = data.sample(given.queries, given.seed, kept)
        written = data.write(folder / "data")
        caches = cached(given, folder, written, data)
        outcomes = alternate(systems(given, written, caches, reranker), given.repeats)
        about = data.sizes()
        pairs = DEPTH + about["most_positives_of_a_query_text"] + 1
        note = f"the peer scores {pairs} pairs per query, {pairs * about['queries']:,} in all"
        add_rows(found, outcomes, OVER_PEER, note, about)
        if {"miner-adaptive", "peer"} <= outcomes.keys():
            both = [[one.took.seconds for one in outcomes[name]] for name in ("peer", "miner-adaptive")]
            ratio = ratios(*both)
            found.row("peer / miner-adaptive", {"ratio": ratio}, goal=OVER_PEER, value=ratio["median"],
                      note=note, **about)  # fmt: skip
    found.show()


if __name__ == "__main__":
    main()
