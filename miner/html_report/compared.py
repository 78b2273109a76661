"""The section that sets two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from miner.errors import shown
from miner.html_report.charts import Bar, bar_chart, figure
from miner.html_report.facts import ReportFacts, RunFigures
from miner.html_report.markup import Html, listing, paragraph, share, table, tag
from miner.html_report.quality import FALSE_NEGATIVES, HIDDEN, shown_rate, with_ends
from miner.html_report.section import ReportSection

_MOVES = 20
"""Moves between outcomes that the table shows."""


def compared(facts: ReportFacts) -> ReportSection | None:
    """Returns the run beside the other one: settings that differ, verdicts, rates, overlap; None without."""
    against = facts.against
    if against is None:
        return None
    before, after = against.figures, facts.own
    names = (f"{shown(before.run.name, 40)} (before)", f"{shown(after.run.name, 40)} (this run)")
    parts: list[Html] = [
        tag("h3", "What differs"),
        listing(against.causes) if against.causes else paragraph("Settings, data and models are the same."),
        paragraph(
            tag("strong", "Rules: "),
            f"{' → '.join(one.rules.removeprefix('rules: ') for one in (before, after))}.",
        ),
        _figures(names, before, after),
        _verdicts(names, before, after),
        tag("h3", "What became of the negatives"),
        *_overlap(facts),
    ]
    return ReportSection("against", f"Compared with run {shown(before.run.name, 60)}", parts)


def _figures(names: Sequence[str], before: RunFigures, after: RunFigures) -> Html:
    both = (before, after)
    rows = [
        ("candidates", *(f"{one.candidates:,}" for one in both)),
        ("queries", *(f"{one.queries:,}" for one in both)),
        ("triplets", *(f"{one.triplets.triplets:,}" for one in both)),
        ("negatives", *(f"{one.triplets.negatives:,}" for one in both)),
        ("coverage", *(share(one.coverage) for one in both)),
        (FALSE_NEGATIVES, *(with_ends(shown_rate(one, FALSE_NEGATIVES)) for one in both)),
        (HIDDEN, *(with_ends(shown_rate(one, HIDDEN)) for one in both)),
    ]
    return table("The two runs side by side", ("", *names), rows)


def _verdicts(names: Sequence[str], before: RunFigures, after: RunFigures) -> Html:
    numbers = [
        {(verdict, reason): number for verdict, reason, number in one.verdicts} for one in (before, after)
    ]
    keys = sorted(set().union(*numbers), key=lambda key: (-max(one.get(key, 0) for one in numbers), str(key)))
    title = "Candidates by verdict and reason"
    drawn = [
        Bar(
            _named(*key),
            numbers[1].get(key, 0),
            f"{numbers[0].get(key, 0):,} → {numbers[1].get(key, 0):,}",
            before=numbers[0].get(key, 0),
        )
        for key in keys
    ]
    chart = bar_chart(f"{title}, two runs", "; ".join(f"{bar.label}: {bar.note}" for bar in drawn), drawn)
    rows = [
        (_named(*key), *(f"{one.get(key, 0):,}" for one in numbers), f"{_change(numbers, key):+,}")
        for key in keys
    ]
    note = "Hatched: before. Filled: this run."
    return figure(title, chart, table(f"{title}, two runs", ("outcome", *names, "change"), rows), note=note)


def _named(verdict: str, reason: str | None) -> str:
    return verdict if reason is None else f"{verdict}: {reason.replace('_', ' ')}"


def _change(numbers: Sequence[dict[tuple[str, str | None], int]], key: tuple[str, str | None]) -> int:
    return numbers[1].get(key, 0) - numbers[0].get(key, 0)


def _overlap(facts: ReportFacts) -> list[Html]:
    against = facts.against
    assert against is not None
    shared = against.triplets["both"] / max(1, sum(against.triplets.values()))
    rows = [
        (name, *(f"{counts[key]:,}" for key in ("both", "gone", "new")))
        for name, counts in (("triplets", against.triplets), ("positives", against.positives))
    ]
    moved = [
        (_outcome(was), _outcome(became), f"{number:,}")
        for was, became, number in against.moved
        if was != became
    ]
    same = sum(number for was, became, number in against.moved if was == became)
    parts = [
        paragraph(
            f"{share(shared)} of the triplets of either run are in both. {same:,} pairs of query and "
            "document are negatives in both runs."
        ),
        table("Overlap of the two runs", ("", "in both", "only before", "only in this run"), rows),
    ]
    if moved:
        caption = "Pairs that are negatives in one run only" + (
            f": the {_MOVES} most frequent changes" if len(moved) > _MOVES else ""
        )
        parts.append(table(caption, ("before", "this run", "pairs"), moved[:_MOVES], left=(0, 1)))
    return parts


def _outcome(name: str) -> str:
    if name in ("negative", "no candidate"):
        return name
    return "kept, not needed" if name == "kept" else f"dropped: {name.replace('_', ' ')}"
