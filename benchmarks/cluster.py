"""What does a cluster cost, where it has the same processors as one process?

tldr, BM25, the bundled encoder and a small reranker, from texts to triplets: `miner mine`, and the same with
`--cluster local`, whose one worker has all processors of this machine. Each is a process of its own, timed
from start to end, so that starting Ray and the worker counts. The stores must be equal in the end.

Target: at most 15 % more seconds than without a cluster.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common import TLDR, Goal, alternate, gib, miner, parser, ratios, report, run_process, scratch, spread
from corpora import BUNDLED_FOLDER, Beir, copy_store, drop_store, new_store

from miner.store.database import Database

DEPTH = 30
OVERHEAD = Goal("seconds with a cluster over seconds without", "<=", 1.15, " x")
TABLES = ("pools", "scored", "positives", "decisions", "selected", "rerank_scores")


def write_reranker(folder: Path, seed: int) -> None:
    """Writes the bundled encoder with a head of random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig.from_pretrained(BUNDLED_FOLDER, num_labels=1))
    encoder = BertModel.from_pretrained(BUNDLED_FOLDER)
    model.bert.load_state_dict(encoder.state_dict(), strict=False)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED_FOLDER).save_pretrained(folder)


def mined(store: Path, options: list[str | Path], _: int) -> tuple[float, float, list[str]]:
    """Mines a copy of a store; returns the seconds, the peak in GiB, and what tells the results apart."""
    copy = copy_store(store, store.with_name(f"mined-{store.name}"), vectors=False)
    try:
        took = run_process(miner("mine", copy, "--depth", str(DEPTH), *options))
        with Database.open(copy, read_only=True) as opened:
            sums = [
                str(opened.rows(f"SELECT count(*), bit_xor(hash({table})) FROM {table}")) for table in TABLES
            ]
        return took.seconds, gib(took.peak_bytes), sums
    finally:
        drop_store(copy)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--queries", type=int, default=1500, help="[%(default)s]")
    arguments.add_argument("--fraction", type=float, default=1.0, help="share of the documents [%(default)s]")
    given = arguments.parse_args()
    found = report("cluster", given, full_size=given.fraction == 1 and given.queries >= 1500)
    with scratch(given.work) as folder:
        data = Beir.read(TLDR).sample(given.queries, given.seed).fraction(given.fraction, given.seed)
        store = new_store(folder / "tldr.duckdb", data.write(folder / "tldr"))
        reranker = folder / "reranker"
        write_reranker(reranker, given.seed)
        options: list[str | Path] = ["--encoder", "bundled", "--reranker", reranker]
        systems = {
            "one process": partial(mined, store, options),
            "cluster": partial(mined, store, [*options, "--cluster", "local"]),
        }
        results = alternate(systems, given.repeats)
        for name, runs in results.items():
            figures = {"seconds": spread(run[0] for run in runs), "peak_gib": spread(run[1] for run in runs)}
            found.row(name, figures, value=figures["seconds"]["median"])
        if len({tuple(run[2]) for runs in results.values() for run in runs}) != 1:
            raise RuntimeError("the cluster's result is another one")
        ratio = ratios([run[0] for run in results["cluster"]], [run[0] for run in results["one process"]])
        found.row("cluster over one process", {"ratio": ratio}, goal=OVERHEAD, value=ratio["median"])
    found.show()


if __name__ == "__main__":
    main()
