"""The section on what was trained: curves of trainings, and the verdicts of a bench."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from miner.errors import counted, shown
from miner.html_report.charts import Series, Span, curves, figure, interval_chart
from miner.html_report.facts import ReportFacts
from miner.html_report.markup import Html, paragraph, table, tag
from miner.html_report.records import BenchRecord, TrainingRecord
from miner.html_report.section import ReportSection, not_measured
from miner.reporting.tables import NONE, signed, signed_interval

BENCH, TRAINING = "bench", "training"
"""What may be missing, in the words of the list of what is."""
_POINTS = 200
"""Points of a curve of losses; of more, the chart and the table show every second, third or so."""


def training(facts: ReportFacts) -> ReportSection:
    """Returns the training curves and the verdicts of the bench, as far as their folders were given."""
    run, store, missing = quote(facts.own.run.name), facts.store, []
    parts: list[Html] = [tag("h3", "Do hard negatives pay?")]
    if not facts.benches:
        missing.append(BENCH)
        how = f"miner bench STORE --run {run} --out bench"
        parts += [not_measured("Bench", how, store), _then("bench")]
    for bench in facts.benches:
        parts += _bench(bench)
    parts.append(tag("h3", "Training curves"))
    if not facts.trainings:
        missing.append(TRAINING)
        how = f"miner train STORE model --run {run}"
        parts += [not_measured("Training", how, store), _then("model")]
    for one in facts.trainings:
        parts += _training(one)
    return ReportSection("training", "Training", parts, missing)


def _then(folder: str) -> Html:
    option = tag("code", f"--training {folder}")
    return paragraph("Then write the report with ", option, ".", class_="missing")


def _bench(bench: BenchRecord) -> Iterator[Html]:
    contaminated = (
        f" {counted(bench.contaminated, 'query', 'queries')} of them also occur in the training texts."
        if bench.contaminated
        else ""
    )
    yield paragraph(
        f"{bench.task.capitalize()} on {counted(bench.queries, 'query', 'queries')} of ",
        tag("bdi", bench.store),
        f", measured in {bench.measure}.{contaminated}",
    )
    spans = [
        Span(_named(one.name, one.triplets), one.mean, min(one.means), max(one.means), f"{one.mean:.4f}",
             one.means)
        for one in bench.arms
    ]  # fmt: skip
    title = f"{bench.measure} of every arm"
    about = "; ".join(f"{span.label}: {span.note}" for span in spans)
    numbers = table(
        title,
        ("arm", "triplets", "mean", "each seed"),
        [
            (one.name, NONE if one.triplets is None else f"{one.triplets:,}", f"{one.mean:.4f}",
             " ".join(f"{value:.4f}" for value in one.means))
            for one in bench.arms
        ],
        left=(0, -1),
    )  # fmt: skip
    start = min((value for one in bench.arms for value in one.means), default=0.0)
    chart = interval_chart(title, about, spans, start=start)
    yield figure(title, chart, numbers, note="Mean over the seeds (filled), and each seed (rings).")
    if bench.comparisons:
        yield table(
            "Arms compared, two by two",
            ("arms", "difference", "95 % interval", "p\u00a0(Holm)", "verdict"),
            [
                (one.pair, signed(one.difference), signed_interval(one.low, one.high), f"{one.p:.4f}",
                 one.verdict)
                for one in bench.comparisons
            ],
            left=(0, -1),
        )  # fmt: skip


def _named(arm: str, triplets: int | None) -> str:
    return arm if triplets is None else f"{arm}, {triplets:,} triplets"


def _training(one: TrainingRecord) -> Iterator[Html]:
    yield paragraph(
        tag("strong", tag("bdi", one.name)),
        f": {one.what} from ",
        tag("bdi", one.base),
        f", {counted(one.steps, 'step')} in {one.seconds:,.0f} s.",
    )
    name, unit = shown(one.name, 40), "step" if one.by_step else "tenth of the training"
    if any(one.losses):
        several = len(one.losses) > 1
        thinned = [curve[:: max(1, -(-len(curve) // _POINTS))] for curve in one.losses]
        title = f"Loss of {name}"
        series = [
            Series(f"model {number}" if several else "loss", curve)
            for number, curve in enumerate(thinned, 1)
            if curve
        ]
        about = "; ".join(f"{of.name}: from {of.points[0][1]:.4g} to {of.points[-1][1]:.4g}" for of in series)
        losses = [(of.name, f"{x:g}", f"{loss:.4f}") for of in series for x, loss in of.points]
        numbers = table(title, ("curve", unit, "loss"), losses)
        is_curve = any(len(of.points) > 1 for of in series)
        yield figure(title, curves(title, about, series, unit, "loss"), numbers) if is_curve else numbers
    if one.scores:
        title = f"{one.measure} of {name} on dev"
        kept = "" if one.best_step is None else f"The model of step {one.best_step:,} was kept."
        about = f"from {one.scores[0][1]:.4f} to {one.scores[-1][1]:.4f}. {kept}"
        numbers = table(
            title,
            ("step", str(one.measure)),
            [(f"{step:,.0f}", f"{value:.4f}") for step, value in one.scores],
        )
        chart = curves(title, about, [Series(str(one.measure), one.scores)], "step", str(one.measure))
        yield figure(title, chart, numbers, note=kept)
