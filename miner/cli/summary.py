"""The summary of a run that a command prints when it ends."""

from __future__ import annotations

from shlex import quote

import click

from miner.errors import counted, listed, printable
from miner.memory import peak_bytes, shown_size
from miner.mining.pipeline import config_of
from miner.mining.rules import in_force
from miner.mining.shortfalls import shortfalls
from miner.reporting.tables import percent
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import triplet_count
from miner.store.verdicts import Codes, has_several_positives


def summarise(store: Database, run: StoredRun) -> None:
    """Writes to stderr: triplets, rules, candidates by reason, shortfalls, memory, and the next commands."""
    codes = Codes.of(store, run)
    counts = codes.reasons()
    total = sum(counts.values())
    by = listed((one.name for one in run.scorers), " + ")
    triplets = counted(triplet_count(store, run), "triplet")
    lines = [f"run {run.name}: {triplets} of split {run.split}, by {by}"]
    lines.append(f"  {in_force(config_of(run))}")
    lines += [f"  {number:>10,}  {percent(number / total):>7}  {reason}" for reason, number in counts.items()]
    lines += _shortfalls(store, run, codes)
    lines.append(f"memory: at most {shown_size(peak_bytes())} in use, of {shown_size(store.memory.total)}")
    path, name = quote(str(store.path)), quote(run.name)
    explain = f"miner explain {path} QUERY_ID"
    audit = f"; miner audit {path} --run {name}" if has_several_positives(store, run) else ""
    more = f"{audit}; miner export {path} OUT --run {name}"
    lines.append(f"next: {explain}{more if counts.get('selected') else ''}")
    for line in lines:
        click.echo(printable(line), err=True)


def _shortfalls(store: Database, run: StoredRun, codes: Codes) -> list[str]:
    """Returns how many queries got fewer negatives than requested, why, and which settings give more."""
    numbers = codes.negative_counts()
    wanted, queries, without = run.negatives, sum(numbers.values()), numbers.get(0, 0)
    fewer = sum(number for negatives, number in numbers.items() if 0 < negatives < wanted)
    if not without + fewer:
        return []
    have = "has" if queries - without == 1 else "have"
    parts = [f"{queries - without:,} of {counted(queries, 'query', 'queries')} {have} negatives"]
    parts += [f"{fewer:,} of them fewer than {wanted}"] * bool(fewer)
    parts += [counted(without, "has none and is", "have none and are") + " not trained on"] * bool(without)
    return [
        f"  {', '.join(parts)}; view shortfalls lists them",
        *(f"  {why}" for why in shortfalls(store, run, codes)),
    ]
