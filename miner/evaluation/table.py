"""The report as people read it: measures as rows, models as columns."""

from __future__ import annotations

from collections.abc import Sequence

from miner.errors import counted
from miner.evaluation.report import EvaluationReport, Section
from miner.evaluation.result import Evaluation
from miner.reporting.tables import percent, short_names, signed, signed_interval, text_table
from miner.stats import Difference


def table(report: EvaluationReport) -> str:
    """Returns one aligned table per place; of several also all side by side, and where they disagree."""
    names = short_names([model.name for model in report.models])
    parts = [_section(section, names) for section in report.sections]
    if len(report.sections) > 1:
        parts.append("\n".join(text_table(_side_by_side(report.sections, names))))
    if lines := report.disagreements():
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _side_by_side(sections: Sequence[Section], names: Sequence[str]) -> list[list[str]]:
    """The first measure of every place, models as rows."""
    firsts = [next(iter(section.results[0].means)) for section in sections]
    rows = [["side by side", *(str(section.data) for section in sections)], ["", *firsts]]
    for number, name in enumerate(names):
        means = [section.results[number].means for section in sections]
        rows.append([name, *(f"{mean[first]:.4f}" for mean, first in zip(means, firsts, strict=True))])
    for number, name in enumerate(names[1:]):
        found = [section.differences[number][0] for section in sections]
        rows.append([f"{names[0]} - {name}", *(f"{signed(one.difference)}, p {one.p:.4f}" for one in found)])
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
    return "\n".join([f"{section.data}: {_about(first)}", *_left_out(first), *text_table(rows)])


_LEFT_OUT = {
    "copies": ("copy of another document", "copies of other documents", " (each text is ranked once)"),
    "own_text": ("document that has", "documents that have", " the query's text"),
    "own_document": ("document that is", "documents that are", " the query itself"),
    "other_split": ("document", "documents", " relevant to the query in another split only"),
}


def _left_out(measured: Evaluation) -> list[str]:
    """What the rankings do not show, if anything."""
    parts = [
        counted(number, one, many) + rest
        for (one, many, rest), number in (
            (_LEFT_OUT[why], number) for why, number in measured.left_out.items()
        )
    ]
    return [f"left out of the rankings: {', '.join(parts)}"] if parts else []


def _cells(found: Difference) -> list[str]:
    interval = signed_interval(found.low, found.high)
    return [f"{found.second:.4f}", signed(found.difference), interval, f"{found.p:.4f}"]


def _about(measured: Evaluation) -> str:
    """What the task was, and how large."""
    if measured.task == "similarity":
        return f"similarity, {counted(len(measured.ids), 'pair')}"
    queries, documents = (
        counted(len(measured.ids), "query", "queries"),
        counted(measured.documents, "document"),
    )
    parts = [measured.task, queries, documents]
    if measured.task == "reranking":
        parts[2] = f"BM25's candidates of {parts[2]}"
    if measured.chance is not None:
        parts.append(f"{percent(measured.chance)} of them of the same label")
    return ", ".join(parts)
