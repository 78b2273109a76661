"""An evaluation report as text: measures as rows, models as columns."""

from __future__ import annotations

from collections.abc import Sequence

from miner.errors import counted
from miner.evaluation.report import EvaluationReport, Section
from miner.evaluation.result import Evaluation
from miner.reporting.tables import short_names, signed, signed_interval, text_table
from miner.stats import Difference


def table(report: EvaluationReport) -> str:
    """Returns a table per store; for several also one of all side by side, and where they disagree."""
    names = short_names([model.name for model in report.models])
    parts = [_section(section, names) for section in report.sections]
    if len(report.sections) > 1:
        parts.append("\n".join(text_table(_side_by_side(report.sections, names))))
    if lines := report.disagreements():
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _side_by_side(sections: Sequence[Section], names: Sequence[str]) -> list[list[str]]:
    """Returns the first measure on every store, models as rows."""
    firsts = [next(iter(section.results[0].means)) for section in sections]
    rows = [["side by side", *(str(section.data) for section in sections)], ["", *firsts]]
    for number, name in enumerate(names):
        means = [section.results[number].means for section in sections]
        rows.append([name, *(f"{mean[first]:.4f}" for mean, first in zip(means, firsts, strict=True))])
    for number, name in enumerate(names[1:]):
        differences = [section.differences[number][0] for section in sections]
        cells = [f"{signed(one.difference)}, p {one.p:.4f}" for one in differences]
        rows.append([f"{names[0]} - {name}", *cells])
    return rows


def _section(section: Section, names: Sequence[str]) -> str:
    rows = [["", names[0]]]
    for name in names[1:]:
        rows[0] += [name, "difference", "95 % interval", "p"]
    for number, (measure, mean) in enumerate(section.results[0].means.items()):
        row = [measure, f"{mean:.4f}"]
        for differences in section.differences:
            row += _cells(differences[number])
        rows.append(row)
    first = section.results[0]
    return "\n".join([f"{section.data}: {first.about}", *_left_out(first), *text_table(rows)])


_LEFT_OUT = {
    "copies": ("copy of another document", "copies of other documents", " (each text is ranked once)"),
    "own_text": ("document that has", "documents that have", " the query's text"),
    "own_document": ("document that is", "documents that are", " the query itself"),
    "other_split": ("document", "documents", " relevant to the query in another split only"),
}


def _left_out(result: Evaluation) -> list[str]:
    """Returns the line that counts what is left out of the rankings, if anything."""
    parts = [
        counted(number, one, many) + rest
        for (one, many, rest), number in ((_LEFT_OUT[why], number) for why, number in result.left_out.items())
    ]
    return [f"left out of the rankings: {', '.join(parts)}"] if parts else []


def _cells(one: Difference) -> list[str]:
    return [f"{one.second:.4f}", signed(one.difference), signed_interval(one.low, one.high), f"{one.p:.4f}"]
