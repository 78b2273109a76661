"""A section of a report, and how it says that something is not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote

from miner.html_report.markup import Content, Html, code, paragraph, tag


@dataclass(frozen=True)
class ReportSection:
    """A section: what links lead to, its heading, and its content."""

    key: str
    title: str
    parts: Sequence[Content]
    missing: Sequence[str] = field(default=())
    """What of it is not measured, in a few words each."""

    def html(self) -> Html:
        """Returns the section as markup."""
        heading = tag("h2", self.title, id=f"{self.key}-title")
        return tag("section", heading, *self.parts, id=self.key, aria_labelledby=f"{self.key}-title")


def command(text: str, store: str) -> str:
    """Returns a command for a reader to type: the store's name replaces STORE."""
    return text.replace(" STORE", f" {quote(store)}", 1)


def not_measured(what: str, how: str, store: str) -> Html:
    """Returns the note that something is not measured, with the command that measures it."""
    return paragraph(
        tag("strong", f"{what}: not measured. "), "Measure it with ", code(command(how, store)), ".",
        class_="missing",
    )  # fmt: skip
