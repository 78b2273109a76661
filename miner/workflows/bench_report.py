"""The report of a bench: table, chart, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from miner.engine.files import WAIT, locked, replacing_all
from miner.errors import listed
from miner.faults import read_json
from miner.reporting.charts import Curve, Panel, draw
from miner.reporting.tables import decimal, markdown_table, signed, signed_interval, text_table
from miner.workflows.bench import settings
from miner.workflows.bench_config import ARMS
from miner.workflows.bench_result import ALPHA, NOT_SHOWN, BenchReport, Comparison, Line, Trained, Untrained
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
    for line in report.untrained:
        means = line.means[measure]
        bounds = [[value] * 2 for value in (line.mean(measure), min(means), max(means))]
        lines.append(Curve(line.arm, [min(rows), max(rows)], *bounds))
    return Panel("triplets", f"{report.config.split} {measure}", lines, logarithmic=len(set(rows)) > 1)


def table(report: BenchReport) -> str:
    """Returns the figures and the verdicts as aligned tables, with what they mean and what to do."""
    config, measured = report.config, report.base.evaluations[0]
    head = (
        f"{report.store} {config.split}: {measured.task}, {len(report.ids):,} queries, "
        f"{measured.documents:,} documents\n"
        f"run {report.run}: {report.pairs:,} positives; base {config.training.base}, "
        f"loss {config.training.loss}, {config.seeds} seeds, negatives per row {config.negatives_per_row}"
    )
    parts = [head, "\n".join(text_table(_arms(report), left=(0, -1))), _contamination(report)]
    if lost := [f"{one.arm} {one.left_out:,} of {one.rows:,}" for one in report.trained if one.left_out]:
        parts.append(f"rows skipped because every batch already contains their texts: {'; '.join(lost)}")
    lines: tuple[Line, ...] = (*report.untrained, *report.trained)
    if warnings := [text for one in lines for text in one.warnings]:
        parts.append("\n".join(f"warning: {warning}" for warning in warnings))
    if against := _against(report):
        parts.append("\n".join(against))
    if report.comparisons:
        parts.append("\n".join(text_table(_verdicts(report), left=(0, -1))))
        parts += filter(None, (intervals_beside(report.comparisons), _others(report.comparisons)))
    return "\n\n".join(parts)


def _arms(report: BenchReport) -> list[list[str]]:
    """The figures of every arm, and how it compares with the untrained models."""
    measures = list(report.base.values)
    contaminated = report.contaminated.ids
    seconds = {id(one.second) for one in report.against}
    references = [one for one in report.untrained if id(one) in seconds]
    rows = [["arm", "triplets", "steps", measures[0], "over seeds"]]
    rows[0] += ["uncontaminated"] * bool(contaminated)
    rows[0] += [*measures[1:], *(f"against {one.short_name}" for one in references)]
    lines: tuple[Line, ...] = (*report.untrained, *report.trained)
    for line in lines:
        size = (f"{line.rows:,}", f"{line.steps:,}") if isinstance(line, Trained) else ("", "")
        values = line.means[measures[0]]
        row = [line.arm, *size, f"{line.mean(measures[0]):.4f}"]
        row.append(f"{min(values):.4f} – {max(values):.4f}" if len(values) > 1 else "")
        row += [decimal(report.without_contaminated(line), 4)] * bool(contaminated)
        row += [f"{line.mean(name):.4f}" for name in measures[1:]]
        found = [one for one in report.against if one.first is line]
        rows.append([*row, *(map(_standing, found) if found else [""] * len(references))])
    return rows


def _standing(comparison: Comparison) -> str:
    """How the first model compares with the second, and in which measures it is otherwise."""
    first = comparison.first
    own = comparison.ahead
    parts = [NOT_SHOWN]
    if own is not None:
        difference = signed(comparison.difference.difference)
        parts = [f"ahead {difference}" if own is first else f"behind {difference}"]
    for word, ahead in (("ahead", True), ("behind", False)):
        found = [one for one in comparison.exceptions if (one.ahead is first) == ahead]
        if found:
            parts.append(f"{word} in {listed(one.difference.measure for one in found)}")
    return "; ".join(parts)


def _contamination(report: BenchReport) -> str:
    """How many queries occur in the training texts, and what to do."""
    found, split = report.contaminated, report.config.split
    if not found.ids:
        return (
            f"contamination: none of the {found.of:,} queries of split {split} occurs in the training texts"
        )
    kinds = ", ".join(f"{number:,} {how}" for how, number in found.how.items())
    names = {"query": "queries", "document": "positives"}
    places = " and ".join(f"{number:,} as {names[role]}" for role, number in found.roles.items())
    lines = [
        f"contamination: {len(found.ids):,} of {found.of:,} queries of split {split} also occur in the "
        f"training texts ({kinds}),",
        f"{places}. They may raise {report.measure}; the column uncontaminated leaves them out.",
    ]
    if "query" in found.roles:
        lines.append(
            f"To remove training queries: miner contamination STORE STORE --set split={split} --remove, "
            "then mine again."
        )
    return "\n".join(lines)


def _against(report: BenchReport) -> list[str]:
    """The trainings that make the base worse, the models that no training is ahead of, and what to do."""
    texts = []
    for untrained in report.untrained:
        found = [one for one in report.against if one.second is untrained]
        behind = [f"{one.first.arm} {one.first.rows:,}" for one in found if one.ahead is untrained]
        if behind and not untrained.off_the_shelf:
            texts.append(
                f"This training makes the base worse, with {', '.join(behind)}: lower learning_rate or "
                "epochs, or train on more rows."
            )
        elif found and not any(one.ahead is one.first for one in found):
            advice = f", or train from it with --base {untrained.model}" if untrained.off_the_shelf else ""
            texts.append(
                f"No arm is ahead of {untrained.arm} in {report.measure}: change the training{advice}."
            )
    return texts


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


def intervals_beside(comparisons: Sequence[Comparison]) -> str | None:
    """Returns why an interval excludes 0 although no difference is shown; None if that does not occur."""
    apart = [one for one in comparisons if one.ahead is None and one.difference.low * one.difference.high > 0]
    reasons = []
    if any(one.difference.p < ALPHA <= one.holm for one in apart):
        reasons.append(
            f"the interval is for one comparison, p (Holm) is corrected for all {len(comparisons)}"
        )
    if any(one.difference.p >= ALPHA for one in apart):
        reasons.append("interval and test are two methods, which may differ at the limit")
    if any(one.holm < ALPHA for one in apart):
        reasons.append("the seeds do not agree on the sign")
    return f"An interval excludes 0 beside '{NOT_SHOWN}': {'; '.join(reasons)}." if apart else None


def _others(comparisons: Sequence[Comparison]) -> str:
    """The differences in the other measures that are shown."""
    measures = [one.difference.measure for one in comparisons[0].others]
    if not any(other.ahead for one in comparisons for other in one.others):
        return f"{listed(measures)}: {NOT_SHOWN} for any pair"
    rows = [["other measures, if a difference is shown", *measures]]
    for one in comparisons:
        shown = ["" if other.ahead is None else signed(other.difference.difference) for other in one.others]
        if any(shown):
            rows.append([_pair(one), *(text or "not shown" for text in shown)])
    return "\n".join(text_table(rows))


def _pair(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    if isinstance(second, Untrained):
        return f"{first.arm}, {first.rows:,} − {second.arm}"
    if first.rows == second.rows:
        return f"{first.arm} − {second.arm}, {first.rows:,}"
    return f"{first.arm}, {first.rows:,} − {second.arm}, {second.rows:,}"


def as_json(report: BenchReport, per_query: bool = True) -> dict[str, Any]:
    """Returns the report as JSON-able values; with `per_query` also the values of every query."""
    measured, found = report.base.evaluations[0], report.contaminated
    return {
        "store": report.store,
        "settings": settings(report),
        "task": measured.task,
        "measure": report.measure,
        "queries": len(report.ids),
        "documents": measured.documents,
        "contaminated": {"queries": len(found.ids), "of": found.of, "how": found.how, "as": found.roles}
        | ({"ids": list(found.ids)} if per_query else {}),
        "untrained": [
            {"arm": one.arm, "model": one.model, **_line(report, one, per_query)} for one in report.untrained
        ],
        "arms": [
            {"arm": one.arm, "triplets": one.rows, "steps": one.steps, "left_out": one.left_out}
            | _line(report, one, per_query)
            for one in report.trained
        ],
        "comparisons": [_comparison(one) for one in report.comparisons],
        "against": [_comparison(one) for one in report.against],
        **({"ids": list(report.ids)} if per_query else {}),
    }


def _line(report: BenchReport, one: Line, per_query: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "means": {name: list(values) for name, values in one.means.items()},
        "uncontaminated": report.without_contaminated(one),
        "warnings": list(one.warnings),
    }
    if per_query:
        content["per_query"] = {name: column.tolist() for name, column in one.values.items()}
    return content


def _comparison(one: Comparison) -> dict[str, Any]:
    arms: list[list[str | int]] = [[one.first.arm, one.first.rows], [one.second.arm]]
    if isinstance(one.second, Trained):
        arms[1].append(one.second.rows)
    return {
        "arms": arms,
        **_figures(one),
        "others": [_figures(o) for o in one.others],
    }


def _figures(one: Comparison) -> dict[str, Any]:
    figures = {"holm": one.holm, "per_seed": list(one.per_seed), "verdict": one.verdict}
    return asdict(one.difference) | figures


def _readme(report: BenchReport) -> str:
    arms = dict.fromkeys(one.arm for one in report.trained)
    shown = {name: value for name, value in asdict(report.config.training).items() if value is not None}
    return "\n".join(
        [
            f"# Easy against hard on {report.store}\n",
            "Arms of one size train on the same positives, in the same order, with the same steps and seeds;",
            "the table has the steps of each size. p values are from paired randomisation tests over",
            "queries; the value of a query is its mean over the seeds.\n",
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
