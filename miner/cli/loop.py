"""`miner loop`: mine, train, mine again with the new model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import field_options
from miner.cli.train import OPTIONS
from miner.ranges import BELOW_1, COUNT, ROUNDS, ROW_NEGATIVES
from miner.training.encoder_config import EncoderConfig

if TYPE_CHECKING:
    from miner.workflows.loop import LoopReport


@click.command("loop")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rounds", type=Within(ROUNDS), default=3, show_default=True, help="At most so many.")
@click.option("--encoder", help="Mines the first round [default: the recipe's, or bundled].")
@click.option(
    "--config",
    "recipe",
    type=click.Path(path_type=Path),
    help="TOML recipe of the mining, as miner mine has it.",
)
@click.option(
    "--negatives",
    type=Within(ROW_NEGATIVES),
    default=1,
    show_default=True,
    help="Negatives per row of training.",
)
@click.option(
    "--hold-out", type=Within(BELOW_1), default=0.1, show_default=True,
    help="Share of each query's positives that no model sees: the audits hide those.",
)  # fmt: skip
@click.option("--dev-split", "split", default="dev", show_default=True, help="Scored after each round.")
@click.option("--queries", type=Within(COUNT), help="Score on so many queries [default: all].")
@field_options(EncoderConfig(), OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def command(
    store: Path, out: Path, rounds: int, encoder: str | None, recipe: Path | None, negatives: int,
    hold_out: float, split: str, queries: int | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Mine STORE, train, and mine again with the new model, until the dev score no longer rises.

    Each round has a run in STORE with its audit, and a model below the folder OUT, trained from --base. Where
    that is the encoder of the first round, the first model has to be ahead of it.
    Started again, the same command repeats nothing that is finished.

    \b
    miner loop my.duckdb models
    miner loop my.duckdb models --rounds 5 --config strict.toml --base bundled
    miner loop my.duckdb quick --base scratch --rounds 2 --queries 100
    """
    from miner.engine.bars import progress
    from miner.mining.config import MiningConfig, read_recipe, with_values
    from miner.workflows.loop import LoopConfig, loop

    values = {"encoder": "bundled"} | (read_recipe(recipe) if recipe else {})
    values |= {"encoder": encoder} if encoder else {}
    config = LoopConfig(
        mining=with_values(MiningConfig(), values),
        training=EncoderConfig(**settings),
        rounds=rounds,
        negatives=negatives,
        hold_out=hold_out,
        split=split,
        queries=queries,
    )
    with progress() as reports:
        report = loop(store, out, config, reports)
    click.echo(json.dumps(report.as_json(), indent=1) if as_json else _table(report))


def _table(report: LoopReport) -> str:
    from miner.reporting.tables import NONE, percent, percent_interval, text_table

    rows = [["round", "run", "triplets", "hidden-positive rate", "coverage", report.measure, "model"]]
    rows.append(["0", "", "", "", "", f"{report.before:.4f}", report.encoder])
    for one in report.rounds:
        rate = NONE
        if one.hidden_positive_rate is not None and one.hidden_positive_rate.rate is not None:
            low, high = one.hidden_positive_rate.low, one.hidden_positive_rate.high
            rate = f"{percent(one.hidden_positive_rate.rate, 2)} {percent_interval(low, high, 2)}"
        cells = [
            str(one.number),
            one.run,
            f"{one.triplets:,}",
            rate,
            percent(one.coverage),
            f"{one.score:.4f}",
            one.model,
        ]
        rows.append(cells)
    ended = "the last round's score did not rise" if report.stopped else "all rounds are over"
    lines = [*text_table(rows), f"{ended}; the best model: {report.best}"]
    if any(one.hidden_positive_rate is not None for one in report.rounds[1:]):
        lines.append(_OPTIMISTIC)
    return "\n".join(lines)


_OPTIMISTIC = (
    "From the second round on the hidden-positive rate is a little optimistic: the run that the model was "
    "trained on knew the positives that are hidden here, and so none of them was a negative there."
)
