"""`miner leakage`: evaluation texts that stand in the training data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.numbers import Within
from miner.engine.files import WAIT, locked, require_file, write_whole
from miner.errors import snippet
from miner.ranges import ABOVE_0, NGRAM

if TYPE_CHECKING:
    from miner.curation.contamination import LeakageReport, Removed

_SHARE = Within(ABOVE_0)
_SHOWN = 90
"""Characters of an example."""
_EXAMPLES = 2
"""Of each kind."""


@click.command("leakage")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), required=True, metavar="OTHER",
    help="Store with the evaluation data; STORE itself compares its splits.",
)  # fmt: skip
@click.option("--split", default="test", show_default=True, help="Split of the evaluation data.")
@click.option(
    "--threshold", type=_SHARE, default=0.9, show_default=True,
    help="Least share of the words of either text that both must have.",
)  # fmt: skip
@click.option(
    "--ngram", type=Within(NGRAM), default=8, show_default=True, help="Words in a row that make a part."
)
@click.option(
    "--contained", type=_SHARE, default=0.8, show_default=True,
    help="Least share of an evaluation text's parts that one training text holds.",
)  # fmt: skip
@click.option(
    "--remove",
    "take_out",
    is_flag=True,
    help="Take the training texts that leak out of STORE, for good: copy it first to go back.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write every leak to this file, as JSON lines.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def command(
    store: Path, against: Path, take_out: bool, out: Path | None, as_json: bool, **settings: Any
) -> None:
    """Find the queries and positives of OTHER that stand in the texts of STORE.

    Exactly, but for case and white space, in nearly the same words, or in parts: runs of --ngram words.
    A model trained on STORE and measured on these has seen them. --remove takes the training texts out,
    with their judgments, but for what STORE holds in its own --split (of that only the
    judgments in other splits go); runs made before still have them, so
    mine again. Within one store the queries of its splits are compared, and judgments are taken out.

    \b
    miner leakage my.duckdb --against benchmark.duckdb
    miner leakage my.duckdb --against benchmark.duckdb --split dev --out leaks.jsonl
    miner leakage my.duckdb --against my.duckdb
    miner leakage my.duckdb --against benchmark.duckdb --remove
    """
    from miner.cli.progress import progress
    from miner.curation.contamination import LeakageConfig, find_leakage, remove
    from miner.store.certificate import is_taken_out, record_leakage
    from miner.store.database import Store
    from miner.text import fingerprint

    config = LeakageConfig(**settings)
    if out is not None:
        require_file(out)
    same = store.resolve() == against.resolve()
    with progress() as reports, Store.open(store, note=reports.note) as train:
        if same:
            report = find_leakage(train, train, config, reports)
        else:
            with Store.open(against, read_only=True) as other:
                report = find_leakage(train, other, config, reports)
        look = {"against": against.name, "place": fingerprint(str(against.resolve())), **asdict(config)}
        facts = {"counts": report.counts(), "evaluation": report.evaluation, "taken_out": take_out}
        with train.transaction():
            removed = remove(train, report, config.split, same) if take_out else None
            nothing = removed is not None and not removed.texts + removed.judgments
            # What was taken out can be listed only once: the same command again must not replace the list.
            if nothing and is_taken_out(train, look):
                listed = out is not None and out.is_file()
                reports.note("all of it was taken out before" + (f"; {out} stays as it is" if listed else ""))
            else:
                listed = False
                record_leakage(train, {**look, **facts})
            if out is not None and not listed:
                _write(out, report)
    if as_json:
        click.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1))
    else:
        for line in _lines(report):
            click.echo(line)
    if removed is not None:
        click.echo(_taken(store, removed, config.split), err=True)
    elif report.leaks:
        read = "" if out else "with --out leaks.jsonl to read them all, or "
        click.echo(f"next: the same {read}with --remove", err=True)


def _taken(store: Path, removed: Removed, split: str) -> str:
    told = f"taken out of {store}: {removed.texts:,} texts and {removed.judgments:,} judgments"
    if removed.stay:
        told += f"; {removed.stay:,} texts stay, which {store} holds to evaluate on in its own split {split}"
    return f"{told}; next: miner mine {quote(str(store))}" if removed.texts + removed.judgments else told


def _write(out: Path, report: LeakageReport) -> None:
    rows = [json.dumps(asdict(leak), ensure_ascii=False) for leak in report.leaks]
    with locked(out, WAIT):
        write_whole(out, "".join(f"{row}\n" for row in rows))


_MEANINGS = {
    "exact": "the same text",
    "normalised": "the same but for case and white space",
    "near": "nearly the same words",
    "contained": "in parts",
}


def _lines(report: LeakageReport) -> Sequence[str]:
    lines = []
    for side, kinds in report.counts().items():
        total, asked = sum(kinds.values()), report.evaluation[side]
        name = {"query": "queries", "document": "positives"}[side]
        lines.append(
            f"{total:,} of {asked:,} evaluation {name} ({100 * total / asked:.1f} %) stand in the "
            f"{report.training:,} training texts"
        )
        for how, number in kinds.items():
            if number:
                lines.append(f"{number:>9,} {_MEANINGS[how]}")
                shown = [leak for leak in report.leaks if (leak.side, leak.how) == (side, how)][:_EXAMPLES]
                for leak in shown:
                    lines.append(f"            {snippet(leak.text, _SHOWN)}")
                    if leak.text != leak.train_text:
                        lines.append(f"          = {snippet(leak.train_text, _SHOWN)}")
    return lines
