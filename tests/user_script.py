"""What a user might write: mypy checks it strictly against the installed package, and it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import miner
from miner import MiningConfig, Rules, Run, Selection, Store, Triplets


def best_run(store: Store, margins: list[float]) -> Run:
    """Returns the run with the lowest hidden-positive rate."""
    naive = store.mine(MiningConfig(rules=Rules(relative_margin=None), selection=Selection(negatives=3)))
    rates: dict[str, float] = {}
    for margin in margins:
        run = naive.decide(relative_margin=margin, name=f"margin-{margin:g}")
        rate = run.audit(repeats=2).hidden_positive_rate.rate
        rates[run.name] = 1.0 if rate is None else rate
    return store.run(min(rates, key=lambda name: rates[name]))


def main(folder: Path) -> int:
    """Mines rows that are made up, and prints what came of it."""
    rows = [
        {"query": f"how to {verb} {thing}", "positive": f"{thing}: {verb} it, step {step}"}
        for thing in ("apples", "bread", "cheese", "dough")
        for verb in ("cut", "keep")
        for step in range(3)
    ]
    report = miner.ingest(folder / "s.duckdb", rows)
    print(report.added["documents"], report.splits["train"])
    try:
        with Store.open(folder / "s.duckdb") as store:
            run = best_run(store, [0.05, 0.2])
    except miner.MinerError as error:
        print(error.message, error.hint)
        return error.exit_code
    found: Triplets = run.triplets(texts=True)
    print(repr(run), len(found), found.to_pandas().shape)
    exported = miner.export_run(
        folder / "s.duckdb", folder / "out", run=run, format="n-tuple", negatives_per_row=1
    )
    print(exported.rows, exported.data.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
