"""What a command says of a run when it ends."""

from __future__ import annotations

import click

from miner.store import runs
from miner.store.database import Store
from miner.store.runs import Run


def summarise(store: Store, run: Run) -> None:
    """Writes to stderr: triplets, candidates by reason, shortfalls, and what to do next."""
    counts = runs.reason_counts(store, run)
    total = sum(counts.values())
    models = [runs.model_name(store, run.encoder), runs.model_name(store, run.reranker)]
    by = " + ".join(["BM25"] * bool(run.config.get("bm25")) + [name for name in models if name])
    lines = [f"run {run.name}: {runs.triplet_count(store, run):,} triplets of split {run.split}, by {by}"]
    lines += [f"  {number:>10,}  {number / total:6.1%}  {reason}" for reason, number in counts.items()]
    if short := runs.shortfall_count(store, run):
        lines.append(
            f"  {short:,} queries got fewer than {run.negatives} negatives: view shortfalls says why;"
        )
        lines.append("  --anchor median, another rule or a larger --depth may leave more")
    lines.append(f"next: miner explain {store.path} QUERY_ID; miner export {store.path} OUT --run {run.name}")
    for line in lines:
        click.echo(line, err=True)
