"""The sections with candidates in words: those that may be positives, and the hardest negatives."""

from __future__ import annotations

from collections.abc import Sequence

from miner.errors import counted
from miner.export.card import MEANINGS
from miner.html_report.facts import ReportFacts
from miner.html_report.markup import Html, data_text, paragraph, table, tag
from miner.html_report.section import ReportSection
from miner.reporting.tables import NONE, decimal
from miner.store.report import Example

_TEXT = 400
"""Characters of a text that are shown."""


def suspects(facts: ReportFacts) -> ReportSection:
    """Returns the suspected candidates that score highest above their query's positives."""
    number = sum(n for verdict, _, n in facts.own.verdicts if verdict == "suspected")
    lead = paragraph(
        f"{counted(number, 'candidate')} {'is' if number == 1 else 'are'} suspected of being positives that "
        "nobody judged: a rule dropped them for a high score, and they score above the median of their "
        "query's positives. These score highest above the best positive, at most one per query."
        if number
        else "No candidate is suspected of being a positive."
    )
    return ReportSection("suspects", "Suspects", [lead, *_articles(facts.suspects, facts, "Suspected")])


def hardest(facts: ReportFacts) -> ReportSection:
    """Returns the negatives that score closest to their query's positives."""
    lead = paragraph(
        "These negatives score closest to the lowest positive of their query, or furthest above it, at most "
        "one per query. Read them: if several are relevant, the rules are too loose."
        if facts.hardest
        else "The run selected no negative."
    )
    return ReportSection("hardest", "Hardest negatives", [lead, *_articles(facts.hardest, facts, "Negative")])


def _articles(examples: Sequence[Example], facts: ReportFacts, what: str) -> list[Html]:
    return [_article(number, one, facts, what) for number, one in enumerate(examples, 1)]


def _article(number: int, one: Example, facts: ReportFacts, what: str) -> Html:
    decides = facts.own.run.deciding.name
    rows = [
        (
            f"{name} (decides)" if name == decides else name,
            NONE if rank is None else f"{rank:,}",
            decimal(score, 4),
            decimal(positive, 4),
        )
        for name, rank, score, positive in one.scores
    ]
    why = "" if one.why == "selected" else f", dropped: {MEANINGS.get(one.why, one.why)}"
    heading = tag("h3", f"{number}. ", data_text(one.query, _TEXT, one.query_size))
    scores = table(
        f"Scores of {what.lower()} and positive",
        ("scorer", "rank", what.lower(), "positive"),
        rows,
    )
    return tag(
        "article",
        heading,
        paragraph("Query ", tag("bdi", tag("code", one.query_id)), class_="quiet"),
        _passage("Positive", one.positive_id, one.positive, one.positive_size, ""),
        _passage(what, one.doc_id, one.document, one.document_size, why),
        scores,
        class_="example",
    )


def _passage(what: str, doc_id: str, text: str | None, size: int, why: str) -> Html:
    label = paragraph(tag("strong", what), " ", tag("bdi", tag("code", doc_id)), why, class_="label")
    return tag("div", label, paragraph(data_text(text, _TEXT, size), class_="passage"))
