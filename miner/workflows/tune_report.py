"""The report of a tuning: table, verdicts, JSON, recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from shlex import quote
from typing import Any

from miner.engine.files import WAIT, is_stream, locked, replacing, require_file
from miner.errors import UsageError, printable
from miner.mining.config import Selection, idle_settings, named_rules
from miner.recipe import written
from miner.reporting.tables import signed, signed_interval, text_table
from miner.training.encoder_config import EncoderConfig
from miner.workflows.bench_config import EASY, IN_BATCH, MINED
from miner.workflows.bench_result import Comparison, Trained
from miner.workflows.tune import TuneReport, duration
from miner.workflows.tune_arms import Arm

_FIRST_LINE = "# Tuned on run"
_NOT_TRAINED = ("evaluations", "patience", "threads", "seed")
"""Settings of the trainings that a recipe leaves to `miner train`."""


def table(report: TuneReport) -> str:
    """Returns the rungs, the final and the verdicts as aligned tables."""
    config, training = report.config, report.config.training
    head = (
        f"{report.store} {config.dev_split}: {report.queries:,} queries, {report.documents:,} documents\n"
        f"run {report.run}; base {training.base}, loss {training.loss}; {len(report.arms)} arms, "
        f"{report.plan.trainings} trainings, {duration(report.seconds)}"
    )
    notes = report.facts.notes()
    parts = [head, *notes, *([_rungs(report)] if report.rungs else []), _finals(report)]
    warnings = dict.fromkeys(warning for one in report.finals for warning in one.warnings)
    parts += ["\n".join(f"warning: {warning}" for warning in warnings)] if warnings else []
    return "\n\n".join([*parts, "\n".join(report.verdicts)])


def _rungs(report: TuneReport) -> str:
    """One line per arm, those that went furthest first; the measure in each rung."""
    last = {name: number for number, rung in enumerate(report.rungs) for name in rung.scores}
    order = sorted(last, key=lambda name: (-last[name], -report.rungs[last[name]].scores[name]))
    reached = set(report.rungs[-1].left)
    rows = [[f"{report.measure}, seed {report.config.training.seed}",
             *(f"{rung.rows:,} triplets" for rung in report.rungs), ""]]  # fmt: skip
    for name in order:
        scores = [f"{rung.scores[name]:.4f}" if name in rung.scores else "" for rung in report.rungs]
        rows.append([name, *scores, "final" if name in reached else ""])
    return "\n".join(text_table(rows, left=(0, -1)))


def _finals(report: TuneReport) -> str:
    """The arms of the final, the best first, each with its difference from the choice."""
    head = ["final", "triplets", report.measure, "over seeds", "choice ahead by", "95 % interval", "p (Holm)"]
    rows = [head]
    against = [None, *report.comparisons]
    for one, comparison in zip(report.finals, against, strict=True):
        means = one.means[report.measure]
        seeds = f"{min(means):.4f} – {max(means):.4f}"
        figures = ["choice", "", ""] if comparison is None else _difference(comparison)
        rows.append([one.arm, f"{one.rows:,}", f"{one.mean(report.measure):.4f}", seeds, *figures])
    return "\n".join(text_table(rows))


def _difference(comparison: Comparison) -> list[str]:
    gap = comparison.difference
    return [signed(gap.difference), signed_interval(gap.low, gap.high), f"{comparison.holm:.4f}"]


def _role(report: TuneReport, one: Trained) -> str | None:
    """What a baseline is called in a sentence; None for another arm."""
    arm = report.arms[one.arm]
    if arm.kind == EASY:
        return "easy negatives" + (f" ({arm.per_row} per row)" if arm.per_row > 1 else "")
    if arm.kind == IN_BATCH:
        return "in-batch negatives alone"
    default = next(name for name, known in report.arms.items() if known.kind == MINED)
    return "the default rules" if one.arm == default else None


def verdicts(report: TuneReport) -> list[str]:
    """Returns the choice, how it compares with each baseline, and what to do next."""
    best, chosen = report.finals[0], report.chosen
    lines = [f"choice: {best.arm}"]
    ahead, level = list[str](), list[str]()
    for comparison in report.comparisons:
        assert isinstance(comparison.second, Trained)
        role = _role(report, comparison.second)
        if role is not None:
            (ahead if comparison.ahead is best else level).append(role)
    if ahead:
        lines.append(f"it is ahead of {_listed(ahead)} with every seed (p < 0.05, corrected)")
    if level:
        lines.append(f"its mean is at least that of {_listed(level)}, but no difference is shown")
    return [*lines, *_advice(report, chosen.kind)]


def _advice(report: TuneReport, kind: str) -> list[str]:
    if kind == IN_BATCH:
        return [
            "in-batch negatives win: no setting of hard negatives has a higher mean on this data with this "
            "base and length of training; train without negatives of their own"
        ]
    if kind == EASY:
        return [
            "easy negatives win: no setting of hard negatives has a higher mean on this data with this base "
            "and length of training; train on random documents"
        ]
    return []


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def next_commands(report: TuneReport, store: str, recipe: str | None) -> list[str]:
    """Returns lines that say how to mine and train with the choice."""
    if recipe is None:
        return ["next: the same command with --out tuned.toml writes the choice, without training"]
    run, store, recipe = quote(report.run), quote(store), quote(recipe)
    lines = []
    if report.chosen.kind == MINED:
        lines.append(f"next: miner decide {store} --run {run} --config {recipe} --name tuned")
        run = "tuned"
    return [*lines, f"next: miner train {store} MODEL --run {run} --config {recipe}"]


def as_json(report: TuneReport) -> dict[str, Any]:
    """Returns the report as JSON-able values, without the values of every query."""
    chosen = report.chosen
    values = {
        "store": report.store,
        "run": report.run,
        "settings": asdict(report.config),
        "labelled": report.facts.labelled,
        "one_positive_per_query": report.facts.single,
        "measure": report.measure,
        "queries": report.queries,
        "documents": report.documents,
        "seconds": round(report.seconds, 1),
        "plan": asdict(report.plan),
        "chosen": {"name": chosen.name, "kind": chosen.kind, "negatives_per_row": chosen.per_row},
        "verdicts": report.verdicts,
        "rungs": [asdict(rung) for rung in report.rungs],
        "finals": [
            {
                "arm": one.arm,
                "triplets": one.rows,
                "steps": one.steps,
                "means": {name: list(values) for name, values in one.means.items()},
                "warnings": list(one.warnings),
            }
            for one in report.finals
        ],
        "comparisons": [
            {
                "first": one.first.arm,
                "second": one.second.arm,
                **asdict(one.difference),
                "holm": one.holm,
                "per_seed": list(one.per_seed),
                "verdict": one.verdict,
            }
            for one in report.comparisons
        ],
        "recipe": recipe_values(chosen, report.config.training),
    }
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def recipe_values(arm: Arm, training: EncoderConfig) -> dict[str, dict[str, Any]]:
    """Returns the settings of an arm and of its trainings by table of the recipe.

    Easy and in-batch negatives need no rules: their recipe has the table of the training alone.
    """
    plain = EncoderConfig()
    shown = {
        part.name: value
        for part in fields(EncoderConfig)
        if (value := getattr(training, part.name)) != getattr(plain, part.name)
        and part.name not in _NOT_TRAINED
    }
    rows: dict[str, Any] = {"negatives_per_row": arm.per_row} if arm.per_row else {}
    if arm.kind != MINED:
        return {"training": {"row_negatives": arm.kind, **rows, **shown}}
    return {
        "rules": named_rules(arm.rules),
        "selection": {
            part.name: getattr(arm.selection, part.name)
            for part in fields(Selection)
            if part.name in ("negatives", "strategy") or getattr(arm.selection, part.name) != part.default
            if part.name not in idle_settings(arm.selection)
        },
        "training": {**rows, **shown},
    }


def recipe(report: TuneReport) -> str:
    """Returns the choice as TOML for `--config` of decide, mine and train, with what was compared."""
    config, training = report.config, report.config.training
    measured = f"{report.queries:,} queries, {report.documents:,} documents"
    lines = [
        f"{_FIRST_LINE} {report.run} of {report.store}: {report.chosen.name}.",
        f"# {len(report.arms)} arms in {report.plan.trainings} trainings from {training.base} with loss "
        f"{training.loss};",
        f"# {report.measure} on split {config.dev_split} ({measured}),",
        f"# mean of {config.seeds} seeds with {report.plan.rows:,} triplets at most, and the choice's lead:",
    ]
    for one, comparison in zip(report.finals, [None, *report.comparisons], strict=True):
        lead = "the choice" if comparison is None else ", ".join(_difference(comparison)[:2])
        holm = "" if comparison is None else f", p (Holm) {comparison.holm:.4f}"
        lines.append(f"#   {one.mean(report.measure):.4f}  {one.arm}: {lead}{holm}")
    lines += [f"# {line[0].upper()}{line[1:]}." for line in report.verdicts[1:]]
    tables = recipe_values(report.chosen, training)
    if report.chosen.kind == MINED:
        lines.append(
            "# miner decide and miner mine read [rules] and [selection], miner train reads [training]."
        )
    for name, values in tables.items():
        lines += [f"[{name}]", *written(values)]
    return "\n".join(printable(line) for line in lines) + "\n"


def require_writable(out: Path) -> None:
    """Raises UsageError if a recipe cannot be written to `out` without losing another file."""
    if is_stream(out):
        return
    require_file(out)
    if out.exists():
        with out.open("rb") as stream:
            own = stream.read(len(_FIRST_LINE)) == _FIRST_LINE.encode()
        if not own:
            raise UsageError(f"{out} was not written by miner tune and would be lost", "name another file")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}", "make it, or name another file")


def write_recipe(report: TuneReport, out: Path) -> None:
    """Writes the recipe to `out`; raises UsageError as `require_writable`."""
    require_writable(out)
    with locked(out, WAIT), replacing(out) as file:
        file.write_text(recipe(report), "utf-8")
