"""What a command says of a run when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote

import click

from miner.mining.pipeline import config_of
from miner.mining.rules import ANCHORED, in_force
from miner.store import runs
from miner.store.database import Store
from miner.store.runs import Run


def summarise(store: Store, run: Run) -> None:
    """Writes to stderr: triplets, rules in force, candidates by reason, shortfalls, and what to do next."""
    counts = runs.reason_counts(store, run)
    total = sum(counts.values())
    by = " + ".join(runs.model_names(store, run))
    lines = [f"run {run.name}: {runs.triplet_count(store, run):,} triplets of split {run.split}, by {by}"]
    lines.append(f"  {in_force(config_of(run))}")
    lines += [f"  {number:>10,}  {number / total:6.1%}  {reason}" for reason, number in counts.items()]
    lines += _shortfalls(runs.negative_counts(store, run), run.negatives, list(counts))
    path, name = quote(str(store.path)), quote(run.name)
    explain = f"miner explain {path} QUERY_ID"
    more = f"; miner audit {path} --run {name}; miner export {path} OUT --run {name}"
    lines.append(f"next: {explain}{more if counts.get('selected') else ''}")
    for line in lines:
        click.echo(line, err=True)


_MORE = {
    "rank_window": "most fell to the window of ranks: a smaller --skip-top, or mining with a larger --depth,",
    "max_score": "most fell to --max-score, which is for one kind of score: another, or another rule,",
    "percentile": "most fell to --percentile: a higher one, or mining with a larger --depth,",
}
"""What may help, by the rule that most fell to."""


def _shortfalls(found: Mapping[int, int], asked: int, reasons: Sequence[str]) -> list[str]:
    """Says how many queries got fewer negatives than asked, and what may help against the first reason."""
    queries, without = sum(found.values()), found.get(0, 0)
    fewer = sum(number for negatives, number in found.items() if 0 < negatives < asked)
    if not without + fewer:
        return []
    told = [f"{queries - without:,} of {queries:,} queries have negatives"]
    told += [f"{fewer:,} of them fewer than {asked}"] * bool(fewer)
    told += [f"{without:,} have none and are not trained on"] * bool(without)
    rule = next((reason for reason in reasons if reason in (*_MORE, *ANCHORED)), "")
    more = _MORE.get(rule, "--anchor median, another rule, or mining with a larger --depth,")
    return [f"  {', '.join(told)}: view shortfalls says why;", f"  {more} may leave more"]
