"""The report of a bench: table, chart, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from miner.engine.files import WAIT, locked, replacing_all
from miner.faults import read_json
from miner.reporting.charts import Curve, Panel, draw
from miner.reporting.tables import markdown_table, signed, signed_interval, text_table
from miner.workflows.bench import BenchReport, Comparison, Trained, settings, warnings_before
from miner.workflows.bench_config import ARMS
from miner.workflows.trial import CELLS

CHART = "curve"


def write(report: BenchReport, out: Path) -> None:
    """Writes results.json, README.md, curve.png and curve.svg into the folder `out`."""
    names = ("results.json", "README.md", f"{CHART}.png", f"{CHART}.svg")
    with (
        locked(out / CELLS, WAIT),
        replacing_all([out / name for name in names]) as (results, readme, png, svg),
    ):
        results.write_text(json.dumps(as_json(report), indent=1) + "\n", "utf-8")
        readme.write_text(_readme(report), "utf-8")
        draw(f"{report.store}: {report.config.training.base}", [_panel(report)], png, svg)


def replaces(report: BenchReport, out: Path) -> bool:
    """Returns whether the folder has a report of other settings, which `write` replaces."""
    file = out / "results.json"
    if not file.exists():
        return False
    stored = read_json(file, dict, "remove it, then run the command again").get("settings")
    return bool(stored != json.loads(json.dumps(settings(report))))


def _panel(report: BenchReport) -> Panel:
    measure = report.measure
    lines = []
    for arm in dict.fromkeys(one.arm for one in report.trained):
        points = sorted((one for one in report.trained if one.arm == arm), key=lambda one: one.rows)
        lines.append(
            Curve(
                arm,
                [one.rows for one in points],
                [one.mean(measure) for one in points],
                [min(one.means[measure]) for one in points],
                [max(one.means[measure]) for one in points],
            )
        )
    rows = [one.rows for one in report.trained]
    before = report.means_before[measure]
    bounds = [[value] * 2 for value in (float(np.mean(before)), min(before), max(before))]
    lines.append(Curve("before training", [min(rows), max(rows)], *bounds))
    return Panel("triplets", f"{report.config.split} {measure}", lines, logarithmic=len(set(rows)) > 1)


def table(report: BenchReport) -> str:
    """Returns the figures and the verdicts as aligned tables."""
    config, before = report.config, report.before[0]
    measures = list(before.values)
    head = (
        f"{report.store} {config.split}: {before.task}, {len(before.ids):,} queries, "
        f"{before.documents:,} documents\n"
        f"run {report.run}: {report.pairs:,} positives; base {config.training.base}, "
        f"loss {config.training.loss}, {config.seeds} seeds, negatives per row {config.negatives_per_row}"
    )
    rows = [["arm", "triplets", "steps", measures[0], "over seeds", *measures[1:]]]
    rows.append(["before training", "", "", *_means(report.means_before, measures)])
    for one in report.trained:
        rows.append([one.arm, f"{one.rows:,}", f"{one.steps:,}", *_means(one.means, measures)])
    parts = [head, "\n".join(text_table(rows))]
    if lost := [f"{one.arm} {one.left_out:,} of {one.rows:,}" for one in report.trained if one.left_out]:
        parts.append(f"rows skipped because every batch already contains their texts: {'; '.join(lost)}")
    warnings = [*warnings_before(report.before), *(text for one in report.trained for text in one.warnings)]
    if warnings:
        parts.append("\n".join(f"warning: {warning}" for warning in warnings))
    if report.comparisons:
        parts.append("\n".join(text_table(_verdicts(report))))
    return "\n\n".join(parts)


def _means(means: Mapping[str, tuple[float, ...]], measures: list[str]) -> list[str]:
    """The mean of each measure over the seeds; after the first one its range, if there are several seeds."""
    first, *others = (f"{np.mean(means[name]):.4f}" for name in measures)
    values = means[measures[0]]
    return [first, f"{min(values):.4f} – {max(values):.4f}" if len(values) > 1 else "", *others]


def _verdicts(report: BenchReport) -> list[list[str]]:
    rows = [[f"{report.measure}", "difference", "95 % interval", "each seed", "p", "p (Holm)", "verdict"]]
    for comparison in report.comparisons:
        difference = comparison.difference
        rows.append(
            [
                _pair(comparison),
                signed(difference.difference),
                signed_interval(difference.low, difference.high),
                " ".join(map(signed, comparison.per_seed)),
                f"{difference.p:.4f}",
                f"{comparison.holm:.4f}",
                comparison.verdict,
            ]
        )
    return rows


def _pair(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    if first.rows == second.rows:
        return f"{first.arm} − {second.arm}, {first.rows:,}"
    return f"{first.arm}, {first.rows:,} − {second.arm}, {second.rows:,}"


def as_json(report: BenchReport, per_query: bool = True) -> dict[str, Any]:
    """Returns the report as JSON-able values; with `per_query` also the values of every query."""
    before = report.before[0]
    return {
        "store": report.store,
        "settings": settings(report),
        "task": before.task,
        "measure": report.measure,
        "queries": len(before.ids),
        "documents": before.documents,
        "before": {name: list(values) for name, values in report.means_before.items()},
        "arms": [_arm(one, per_query) for one in report.trained],
        "comparisons": [
            {
                "first": [comparison.first.arm, comparison.first.rows],
                "second": [comparison.second.arm, comparison.second.rows],
                **asdict(comparison.difference),
                "holm": comparison.holm,
                "per_seed": list(comparison.per_seed),
                "verdict": comparison.verdict,
            }
            for comparison in report.comparisons
        ],
        **({"ids": list(before.ids)} if per_query else {}),
    }


def _arm(one: Trained, per_query: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "arm": one.arm,
        "triplets": one.rows,
        "steps": one.steps,
        "left_out": one.left_out,
        "means": {name: list(values) for name, values in one.means.items()},
        "warnings": list(one.warnings),
    }
    if per_query:
        content["per_query"] = {name: column.tolist() for name, column in one.values.items()}
    return content


def _readme(report: BenchReport) -> str:
    arms = dict.fromkeys(one.arm for one in report.trained)
    shown = {name: value for name, value in asdict(report.config.training).items() if value is not None}
    return "\n".join(
        [
            f"# Easy against hard on {report.store}\n",
            "Arms of one size train on the same positives, in the same order, with the same steps and seeds;",
            "a larger size has more steps. p values are from paired randomisation tests over queries; a",
            "query's value is its mean over the seeds.\n",
            "```",
            table(report),
            "```\n",
            f"![learning curves]({CHART}.png)\n",
            *markdown_table(
                ("arm", "its negatives"), [(arm, ARMS.get(arm, "the triplets of that run")) for arm in arms]
            ),
            "",
            *markdown_table(("setting", "value"), shown.items()),
            "",
        ]
    )
