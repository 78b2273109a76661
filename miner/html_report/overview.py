"""The sections on what a run holds: its data, candidates, verdicts, scores and coverage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from miner.errors import counted, shown
from miner.export.card import MEANINGS
from miner.html_report.charts import (
    DOTTED,
    HATCHED,
    OPEN,
    SOLID,
    Bar,
    BinRow,
    Mark,
    bar_chart,
    figure,
    histogram,
)
from miner.html_report.facts import ReportFacts, RunFigures, Threshold
from miner.html_report.markup import Html, code, details, join, listing, paragraph, share, table, tag, terms
from miner.html_report.section import ReportSection, not_measured
from miner.reporting.tables import NONE
from miner.store.report import GROUPS

_BANDS = (1, 2, 3, 4, 5, 10, 20, 50)
"""The least number of positives in each row of their distribution."""
_COMBINATIONS = 12
"""Combinations of retrievers that a chart shows."""
_LISTED = 40
"""Those that its table has: with many retrievers there are thousands."""
_PATTERNS = {"selected": SOLID, "kept": HATCHED, "suspected": DOTTED, "dropped": OPEN}
"""How the candidates of each verdict are drawn."""
_NAMED = {
    "positives": ("Positives", SOLID),
    "selected": ("Selected as negatives", SOLID),
    "kept": ("Kept, not needed", HATCHED),
    "dropped": ("Dropped by a rule", OPEN),
}
"""How the scores of each group are drawn."""


def data(facts: ReportFacts) -> ReportSection:
    """Returns what the store holds and what of it the run uses."""
    counts, run = facts.counts, facts.own.run
    lead = paragraph(
        f"The store holds {counts['documents']:,} documents, {counts['queries']:,} queries and "
        f"{counts['judgments']:,} judgments. The run mines the {facts.own.queries:,} queries that have a "
        f"positive in split {shown(run.split)}."
    )
    judgments = table(
        "Judgments by split and source",
        ("split", "source", "judgments", "relevant"),
        [
            (
                one["split"],
                one["source"],
                f"{one['judgments']:,}",
                "scores from 0 to 1" if one["positive"] is None else f"{one['positive']:,}",
            )
            for one in facts.own.certificate["judgments"]["counts"]
        ],
        left=(0, 1),
    )
    lengths = table(
        "Length of the texts in characters",
        ("texts", "number", "empty", "median", "95 % at most", "longest"),
        [
            (one.role, f"{one.texts:,}", f"{one.empty:,}", f"{one.median:,.0f}", f"{one.long:,.0f}",
             f"{one.longest:,}")
            for one in facts.lengths
        ],
    )  # fmt: skip
    rows = list(_by_positives(facts.positives))
    chart = bar_chart(
        "Positives per query",
        "; ".join(f"{label}: {counted(number, 'query', 'queries')}" for label, number in rows),
        [Bar(label, number, counted(number, "query", "queries")) for label, number in rows],
    )
    numbers = table(
        "Queries by number of positives", ("positives", "queries"), [(a, f"{b:,}") for a, b in rows]
    )
    parts = [lead, judgments, lengths, figure("Positives per query", chart, numbers)]
    if facts.rejected:
        left_out = [(reason.replace("_", " "), f"{rows:,}") for reason, rows in facts.rejected]
        parts.append(table("Rows that ingest left out", ("reason", "rows"), left_out))
    return ReportSection("data", "What is in the data", parts)


def _by_positives(found: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    for low, above in pairwise((*_BANDS, 1 << 62)):
        number = sum(queries for positives, queries in found if low <= positives < above)
        if number:
            name = (
                f"{low}"
                if above == low + 1
                else f"{low} or more"
                if above > 1000
                else f"{low} to {above - 1}"
            )
            yield f"{name} {'positive' if name == '1' else 'positives'}", number


def candidates(facts: ReportFacts) -> ReportSection:
    """Returns what each scorer found and scored, and what several retrievers found together."""
    own = facts.own
    decides = next(one for one in facts.scorers if one.decides)
    lead = paragraph(
        f"{counted(len(own.run.retrievers), 'retriever')} found {own.candidates:,} candidates, "
        f"{own.candidates / max(1, own.queries):,.1f} per query. The rules look at the scores of ",
        tag("strong", tag("bdi", decides.name)),
        ".",
    )
    scorers = table(
        "Scorers: the candidates that each found and scored",
        ("scorer", "kind", "found", "found alone", "known positives found", "scored"),
        [
            (
                tag("bdi", one.name),
                f"{one.kind}, decides" if one.decides else one.kind,
                *(NONE if value is None else f"{value:,}" for value in (one.found, one.alone, one.positives)),
                f"{one.scored:,}",
            )
            for one in facts.scorers
        ],
        left=(0, 1),
    )
    groups = [(" + ".join(group.scorers) or "no retriever", group) for group in facts.found_by]
    drawn = [
        Bar(
            name if "+" in name else f"{name} only",
            group.candidates,
            _share(group.candidates, own.candidates),
        )
        for name, group in groups[:_COMBINATIONS]
    ]
    chart = bar_chart(
        "Overlap of the retrievers",
        "; ".join(f"{bar.label}: {bar.note}" for bar in drawn),
        drawn,
    )
    numbers = table(
        "Candidates by the retrievers that found them",
        ("found by", "candidates", "share", "known positives"),
        [
            (name, f"{one.candidates:,}", share(one.candidates / max(1, own.candidates)),
             f"{one.positives:,}")
            for name, one in groups[:_LISTED]
        ],
    )  # fmt: skip
    overlap = figure("Overlap of the retrievers", chart, numbers, note="Candidates by who found them.")
    models = details(
        "Models of the scorers",
        table(
            "Names and fingerprints of the scorers",
            ("scorer", "name", "fingerprint", "similarity"),
            [
                (
                    tag("bdi", one.name),
                    tag("bdi", one.title),
                    code(str(one.details.get("fingerprint", NONE))),
                    str(one.details.get("similarity", NONE)),
                )
                for one in facts.scorers
            ],
            left=(0, 1, 2, 3),
        ),
    )
    return ReportSection("candidates", "Candidates", [lead, scorers, overlap, models])


def _share(number: int, of: int) -> str:
    return f"{number:,} ({share(number / of) if of else NONE})"


def verdicts(facts: ReportFacts) -> ReportSection:
    """Returns what became of the candidates, and why."""
    own = facts.own
    lead = paragraph(
        "Every candidate has a verdict, and every one that was not kept has a reason. The rules in force: ",
        tag("strong", own.rules.removeprefix("rules: ")),
        f". Up to {own.run.negatives} of the kept candidates of a query are selected as negatives.",
    )
    drawn = [
        Bar(_named(verdict, reason), number, _share(number, own.candidates), _PATTERNS[verdict])
        for verdict, reason, number in own.verdicts
    ]
    title = "Candidates by verdict and reason"
    chart = bar_chart(title, "; ".join(f"{bar.label}: {bar.note}" for bar in drawn), drawn)
    numbers = table(
        title,
        ("verdict", "reason", "candidates", "share", "meaning"),
        [
            (
                verdict,
                reason or NONE,
                f"{number:,}",
                share(number / max(1, own.candidates)),
                MEANINGS.get(reason or verdict, ""),
            )
            for verdict, reason, number in own.verdicts
        ],
        left=(0, 1, 4),
    )
    note = "Selected: filled; kept: hatched; suspected: dotted; dropped: outlined."
    return ReportSection("verdicts", "Verdicts", [lead, figure(title, chart, numbers, note=note)])


def _named(verdict: str, reason: str | None) -> str:
    return verdict if reason is None else f"{verdict}: {reason.replace('_', ' ')}"


def scores(facts: ReportFacts) -> ReportSection:
    """Returns the distributions of the deciding scores, with the threshold of the rules."""
    bins, name = facts.bins, facts.own.run.deciding.name
    if bins is None:
        lead = paragraph("No candidate and no positive has a finite score by ", tag("bdi", name), ".")
        return ReportSection("scores", "Scores", [lead])
    rows = [
        BinRow(
            _NAMED[group][0],
            f"{sum(bins.counts[group]):,}, median {bins.medians[group]:.3g}"
            if group in bins.medians
            else "none",
            bins.counts[group],
            _NAMED[group][1],
        )
        for group in GROUPS
    ]
    marks = [_mark(one) for one in facts.thresholds]
    title = f"Scores by {shown(name, 40)}"
    about = "; ".join([*(f"{row.label}: {row.note}" for row in rows), *(mark.label for mark in marks)])
    chart = histogram(title, about, bins.low, bins.high, rows, marks)
    step = (bins.high - bins.low) / max(1, len(bins.counts["positives"]))
    numbers = table(
        "Positives and candidates by score",
        ("score from", *(_NAMED[group][0] for group in GROUPS)),
        [
            (f"{bins.low + number * step:.4g}", *(f"{bins.counts[group][number]:,}" for group in GROUPS))
            for number in range(len(bins.counts["positives"]))
        ],
    )
    bounds = table(
        "Bounds of the rules on the score, over the queries",
        ("bound", "10 % of queries below", "median", "10 % of queries above"),
        [
            (_bound(one), *(f"{x:.4g}" for x in (one.low, one.median, one.high)))
            for one in facts.thresholds
        ],
    )  # fmt: skip
    notes = [
        "The positives should score higher than what was selected; the more the two overlap, the more "
        "negatives are likely to be relevant. Excluded candidates, such as known positives, are left out."
    ]
    if not facts.thresholds:
        notes.append("No rule bounds the score of this run.")
    note = "Each row has a height scale of its own."
    return ReportSection(
        "scores",
        "Scores",
        [paragraph(" ".join(notes)), figure(title, chart, numbers, *[bounds] * bool(marks), note=note)],
    )


def _mark(one: Threshold) -> Mark:
    where = "up to" if one.is_upper else "from"
    if one.low == one.high:
        return Mark(f"Kept {where} {one.median:.3g}", one.low, one.high)
    ends = f"{one.low:.3g} – {one.high:.3g}"
    return Mark(f"Kept {where} {ends} (80\u00a0% of queries)", one.low, one.high)


def _bound(one: Threshold) -> str:
    return "highest score kept" if one.is_upper else "lowest score kept"


def coverage(facts: ReportFacts) -> ReportSection:
    """Returns how many queries got their negatives, and why others did not."""
    own = facts.own
    short = own.queries - own.covered
    lead = paragraph(
        f"{own.covered:,} of {counted(own.queries, 'query', 'queries')} got the {own.run.negatives} "
        f"negatives requested: a coverage of {share(own.coverage)}. "
        + (f"{short:,} got fewer; none is padded with other documents." if short else "None is padded.")
    )
    rows = [(counted(n, "negative"), number) for n, number in sorted(own.negatives.items(), reverse=True)]
    drawn = [Bar(label, number, _share(number, own.queries)) for label, number in rows[:20]]
    title = "Queries by number of negatives"
    chart = bar_chart(title, "; ".join(f"{bar.label}: {bar.note}" for bar in drawn), drawn)
    numbers = table(
        title,
        ("negatives", "queries", "share"),
        [(label, f"{number:,}", share(number / max(1, own.queries))) for label, number in rows],
    )
    parts: list[Html] = [lead, figure(title, chart, numbers)]
    if facts.shortfalls:
        parts.append(tag("h3", "Why negatives are missing"))
        parts.append(listing(str(one) for one in facts.shortfalls))
    return ReportSection("coverage", "Coverage and shortfalls", parts)


def copies(facts: ReportFacts) -> ReportSection:
    """Returns the copies among the texts, and the evaluation texts that occur in them."""
    certificate = facts.own.certificate
    commands, found, checks = certificate["commands"], certificate["copies"], certificate["contamination"]
    parts: list[Html] = [tag("h3", "Copies")]
    if found is None:
        parts.append(not_measured("Copies among the texts", commands["copies"], facts.store))
    else:
        rows = [
            (role, f"{found[role]['clusters']:,}", f"{found[role]['members']:,}")
            for role in ("documents", "queries")
            if role in found
        ]
        parts.append(paragraph("Mining treats the copies of a text as one.", _stale(found["changed_since"])))
        parts.append(
            table("Copies among the texts", ("texts", "clusters", "copies"), rows)
            if rows
            else paragraph("No text has a copy.")
        )
    parts.append(tag("h3", "Contamination"))
    if checks is None:
        what = "Evaluation texts that also occur in the store"
        parts.append(not_measured(what, commands["contamination"][0], facts.store))
    else:
        found_in: list[tuple[Html, str, str, str, str]] = []
        for one in checks:
            number = sum(sum(kinds.values()) for kinds in one["counts"].values())
            total = sum(one["evaluation"].values())
            state = "removed" if one["removed"] and number else "in the store" if number else NONE
            if changed := one["changed_since"]:
                state += f"; {' and '.join(changed)} changed since"
            found_in.append((tag("bdi", one["against"]), one["split"], f"{number:,}", f"{total:,}", state))
        head = ("evaluation data", "split", "found", "texts", "state")
        parts.append(table("Evaluation texts that also occur in the store", head, found_in, left=(0, 1, 4)))
    return ReportSection("copies", "Contamination and copies", parts)


def _stale(changed: Sequence[str]) -> Html:
    return join([f" The {' and '.join(changed)} changed since: search again."]) if changed else join([])


def settings(own: RunFigures) -> Html:
    """Returns the settings of a run that are not off."""
    pairs = []
    for key, value in own.run.config.items():
        inner = value.items() if isinstance(value, dict) else [(key, value)]
        prefix = f"{key}." if isinstance(value, dict) else ""
        pairs += [
            (f"{prefix}{name}" if prefix else name, shown(one, 200))
            for name, one in inner
            if one not in (None, [], ())
        ]
    return details("All settings", terms((code(name), tag("bdi", value)) for name, value in pairs))
