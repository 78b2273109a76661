"""Is the page of `miner review` fast, and is its order good?

Fast: a made-up run has 100,000 pairs to review, in a store of 1,000,000 candidates of two scorers. The server
starts as a process. The benchmark reports the seconds from its start to the first pair, and the milliseconds
of a step, an answer that is stored and the next pair, over pairs from all of the queue, as a browser asks for
them; also for a step after three seconds without one, when the store has closed its file.

Order: on cranfield and perspectrum half of each query's positives stay in the store, and the rest is withheld
from it. The queries are mined with BM25. For the suspected positives, and for the selected negatives, the
benchmark reports the chance that a withheld positive comes before another pair (the area under the ROC
curve): by how far scores stand out in their query, which the page goes by, by the fitted chance of
`auditing.prediction`, and by the distance of the score from the median of the query's positives.

Targets: the first pair in less than 2 s; no step over 200 ms.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from argparse import Namespace
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import SEED, Goal, Report, miner, parser, report, scratch, spread
from corpora import new_store
from incomplete import SPLITS, judged
from labels import DATA, write_visible
from sklearn.metrics import roc_auc_score

from miner.arrays import as_lists
from miner.auditing.prediction import predicted_chance
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.mining.rules import reference_scores
from miner.review.queue import standing_out
from miner.schema import CANDIDATES_PER_QUERY, CODES, FREE, KEPT, SUSPECTED, Reason
from miner.store import labels, reviews, runs
from miner.store.database import Database
from miner.store.evidence import scored_positives
from miner.store.runs import StoredRun
from miner.store.scorers import BM25, DENSE, Scorer

START = Goal("seconds to the first pair of 100,000", "<=", 2, " s")
STEP = Goal("milliseconds of the slowest step", "<=", 200, " ms")
PER_QUERY, PAIRS_PER_QUERY = 100, 10
STEPS, PAUSES = 100, 3
WORDS = 80


def fill(store: Database, queries: int, seed: int) -> None:
    """Makes a run with ten pairs to review per query, five suspected and five selected."""
    drawn = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(20_000)])
    documents = 20 * queries
    query_ids, doc_ids = [f"q{i:06d}" for i in range(queries)], [f"d{i:07d}" for i in range(documents)]
    for table, name, ids in (("documents", "doc_id", doc_ids), ("queries", "query_id", query_ids)):
        texts = [" ".join(row) for row in words[drawn.integers(0, len(words), (len(ids), WORDS))]]
        columns = {name: ids, "text": texts, "text_key": np.arange(1, len(ids) + 1)}
        store.insert(table, pa.table(columns | ({"title": [""] * len(ids)} if table == "documents" else {})))
    numbers = pa.array(np.arange(queries, dtype=np.int32))
    sizes = np.full(queries, PER_QUERY)
    size, ranks = queries * PER_QUERY, np.tile(np.arange(1, PER_QUERY + 1, dtype=np.int32), queries)
    pools = {
        "query_no": numbers,
        "query_id": query_ids,
        "doc_nos": as_lists(drawn.integers(queries, documents, size).astype(np.int32), sizes),
        "exclusions": as_lists(np.full(size, FREE, dtype=np.int8), sizes),
        "judged_negative": as_lists(np.zeros(size, dtype=np.bool_), sizes),
        "best_ranks": as_lists(ranks, sizes),
        "best_scorers": as_lists(np.zeros(size, dtype=np.int8), sizes),
    }
    store.insert("pools", pa.table(pools), evidence="ev")
    numbered = pa.table({"doc_no": np.arange(documents, dtype=np.int32), "doc_id": doc_ids})
    store.insert("pool_documents", numbered, evidence="ev")
    positives = {"query_no": numbers, "query_id": query_ids, "doc_id": doc_ids[:queries]}
    store.insert("positives", pa.table(positives), evidence="ev")
    for scorer in range(2):
        scored = {
            "query_no": numbers,
            "scorer": np.full(queries, scorer, dtype=np.int16),
            "ranks": as_lists(ranks, sizes),
            "scores": as_lists(drawn.normal(size=size), sizes),
            "positives": as_lists(drawn.normal(size=queries), np.ones(queries, dtype=np.int64)),
        }
        store.insert("scored", pa.table(scored), evidence="ev")
    run = StoredRun(
        run_id="made up", name="r1", split="train", config={}, inputs={}, versions={}, seed=seed,
        evidence="ev", reranking=None, decider=0, negatives=5, status="running",
        started=datetime(2026, 1, 1), finished=None,
        scorers=(Scorer(0, "bm25", BM25, None), Scorer(1, "dense", DENSE, "model")),
    )  # fmt: skip
    runs.begin_run(store, run)
    codes = np.full((queries, PER_QUERY), KEPT, dtype=np.int16)
    codes[:, :5] = SUSPECTED + CODES[Reason.RELATIVE_MARGIN]
    codes[:, 5:PAIRS_PER_QUERY] = KEPT - 1 - np.arange(5)
    decisions = pa.table({"query_no": numbers, "codes": as_lists(codes.ravel(), sizes)})
    runs.finish_run(store, run.run_id, [{"decisions": decisions}])


class Client:
    """A browser's requests to a server of `miner review` that it starts."""

    def __init__(self, store: Path) -> None:
        self._started = time.perf_counter()
        self.process = subprocess.Popen(
            miner("review", store, "--no-browser"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        address, _, self._token = self.process.stdout.readline().strip().partition("/?token=")
        self._connection = HTTPConnection(address.removeprefix("http://"))
        self.get("/")
        self.pairs = int(self.get("/api/start")["of"])
        self.get("/api/item?at=0&reviewer=anna")
        self.seconds = time.perf_counter() - self._started

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Returns the answer to a request, which is a POST if it has a body."""
        headers = {"X-Review-Token": self._token, "Content-Type": "application/json"}
        self._connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content) if path != "/" else None

    def step(self, at: int) -> float:
        """Answers a pair and gets the next; returns the milliseconds of both."""
        begun = time.perf_counter()
        self.get("/api/answer", {"at": at, "answer": "relevant", "reviewer": "anna", "seconds": 1.0})
        self.get(f"/api/item?at={at + 1}&reviewer=anna")
        return 1000 * (time.perf_counter() - begun)

    def close(self) -> None:
        """Ends the server."""
        self.process.terminate()
        self.process.wait()


def measure_speed(found: Report, folder: Path, given: Namespace) -> None:
    """Adds the rows on the start and on steps."""
    path = folder / "review.duckdb"
    with Database.open(path, create=True) as store:
        fill(store, given.pairs // PAIRS_PER_QUERY, given.seed)
    starts, steps, rested = [], [], []
    for repeat in range(given.repeats):
        client = Client(path)
        starts.append(client.seconds)
        places = np.linspace(0, client.pairs - 2, STEPS).astype(int)
        steps += [client.step(int(at)) for at in places]
        for pause in range(PAUSES):
            time.sleep(3)
            rested.append(client.step(repeat * PAUSES + pause))
        client.close()
    size = f"of {given.pairs:,} pairs"
    found.row(f"start {size}", {"seconds": spread(starts)}, goal=START, value=spread(starts)["median"])
    for name, values in ((f"step {size}", steps), (f"step {size} after a pause", rested)):
        figures = {"milliseconds": spread(values), "slowest": max(values)}
        found.row(name, figures, goal=STEP, value=max(values))


def measure_order(found: Report, folder: Path, name: str, seed: int) -> None:
    """Adds the rows on the order for one collection."""
    truth = judged(DATA / name, SPLITS[name])
    source = write_visible(DATA / name, folder / name, truth, "half", random.Random(seed))
    relevant = {(query, doc) for query, known in truth.items() for doc in known}
    with Database.open(new_store(folder / f"{name}.duckdb", source)) as store:
        run = mine(store, MiningConfig())
        pairs = reviews.reviewable(store, run)
        candidate = pairs["candidate"].to_numpy()
        is_relevant = np.array([(row["query_id"], row["doc_id"]) in relevant for row in pairs.to_pylist()])
        everything = labels.predictable(store, run)
        rows = np.searchsorted(everything["candidate"].to_numpy(), candidate)
        orders = {
            "standing_out": standing_out(store, run, candidate),
            "fitted_chance": predicted_chance(everything)[rows],
            "distance_from_positives": _distance(store, run, candidate),
        }
        suspected = pairs["is_suspected"].to_numpy(zero_copy_only=False)
        for group, some in (("suspected", suspected), ("selected", ~suspected)):
            figures = {
                order: float(roc_auc_score(is_relevant[some], np.nan_to_num(values[some], nan=-1e9)))
                for order, values in orders.items()
            }
            sizes = {"pairs": int(some.sum()), "relevant": int(is_relevant[some].sum())}
            found.row(f"{name}, {group}", figures | sizes)


def _distance(store: Database, run: StoredRun, candidate: Any) -> Any:
    """Returns the distance of the deciding score from the median of the query's positives, standardised."""
    numbers, score = reviews.scores_of(store, run, run.deciding)
    query = candidate // CANDIDATES_PER_QUERY
    known = scored_positives(store, run)
    owner = known["query_no"].to_numpy().astype(np.int64)
    reference = reference_scores(owner, known["score"].to_numpy(), int(query.max()) + 1, "median")
    every = numbers // CANDIDATES_PER_QUERY
    spreads = {number: float(np.nanstd(score[every == number])) or 1.0 for number in np.unique(query)}
    return (score[np.searchsorted(numbers, candidate)] - reference[query]) / [spreads[one] for one in query]


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--pairs", type=int, default=100_000, help="pairs to review; fewer: a trial [100000]"
    )
    given = arguments.parse_args()
    found = report("review", given, full_size=given.pairs >= 100_000)
    with scratch(given.work) as folder:
        for name in ("cranfield", "perspectrum"):
            measure_order(found, folder, name, SEED)
        measure_speed(found, folder, given)
    found.show()


if __name__ == "__main__":
    main()
