"""The page: its head, the summary with the figures that matter, the contents, and all sections in order."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from shlex import quote

from miner.errors import DISTRIBUTION, shown
from miner.html_report import compared, examples, overview, quality, training
from miner.html_report.charts import PATTERNS
from miner.html_report.facts import ReportFacts
from miner.html_report.markup import Html, code, join, listing, paragraph, share, tag
from miner.html_report.quality import FALSE_NEGATIVES, FRONTIER, HIDDEN, NOT_MEASURED
from miner.html_report.section import ReportSection, command

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser lets the page do: show itself. It loads nothing and runs nothing."""


def sections(facts: ReportFacts) -> list[ReportSection]:
    """Returns all sections in order."""
    every = (
        compared.compared(facts),
        overview.data(facts),
        overview.candidates(facts),
        overview.verdicts(facts),
        overview.scores(facts),
        quality.false_negatives(facts),
        quality.frontier(facts),
        overview.coverage(facts),
        examples.suspects(facts),
        examples.hardest(facts),
        overview.copies(facts),
        training.training(facts),
        quality.certificate(facts),
        quality.commands(facts, overview.settings(facts.own)),
    )
    return [one for one in every if one is not None]


def not_measured(facts: ReportFacts) -> list[str]:
    """Returns what the report says is not measured, in a few words each."""
    return [name for section in sections(facts) for name in section.missing]


def render(facts: ReportFacts) -> str:
    """Returns the whole page: one file without scripts, that loads nothing."""
    shown_sections = sections(facts)
    run = facts.own.run
    title = f"Run {shown(run.name, 60)} of {shown(facts.store, 60)}"
    style = files("miner.html_report").joinpath("style.css").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"miner {version(DISTRIBUTION)}"),
        tag("title", title),
        tag("style", Html(style)),
    )
    finished = "" if run.finished is None else f", finished {run.finished:%d %B %Y, %H:%M} UTC"
    header = tag(
        "header",
        paragraph("Report of a mining run", class_="kicker"),
        tag("h1", tag("bdi", run.name)),
        paragraph(
            "Store ", tag("bdi", facts.store), f", split {shown(run.split, 60)}{finished}. ",
            f"{facts.own.rules[:1].upper()}{facts.own.rules[1:]}.",
        ),
    )  # fmt: skip
    contents = tag(
        "nav",
        tag("ol", *(tag("li", tag("a", one.title, href=f"#{one.key}")) for one in shown_sections)),
        aria_label="Contents",
    )
    main = tag(
        "main", _summary(facts, shown_sections), contents, *(one.html() for one in shown_sections), id="main"
    )
    about = f"Written by miner {version(DISTRIBUTION)}. This page loads nothing and sends nothing."
    footer = tag("footer", paragraph(about))
    skip = tag("a", "Skip to the report", href="#main", class_="skip")
    body = tag("body", skip, PATTERNS, header, main, footer)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _summary(facts: ReportFacts, shown_sections: list[ReportSection]) -> Html:
    own = facts.own
    triplets = own.triplets
    mined = f"{triplets.negatives:,} negatives of {triplets.queries:,} queries"
    covered = f"{own.covered:,} of {own.queries:,} queries got all their negatives"
    figures = [
        ("Triplets", f"{triplets.triplets:,}", mined),
        ("Coverage", share(own.coverage), covered),
        _rate(facts, FALSE_NEGATIVES, "Negatives that are relevant, by labels"),
        _rate(facts, HIDDEN, "Hidden positives that were selected"),
    ]  # fmt: skip
    tiles = tag(
        "dl",
        *(
            tag(
                "div",
                tag("dt", name),
                tag("dd", value, class_=_weight(value)),
                tag("dd", note, class_="note"),
            )
            for name, value, note in figures
        ),
        class_="figures",
    )
    parts = [tiles]
    if changed := own.certificate["changed_since"]:
        parts.append(
            paragraph(
                tag("strong", f"The store's {' and '.join(changed)} changed after this run was mined. "),
                "What the page says of the texts is of the store as it is now. Mine again before you train.",
                class_="warning",
            )
        )
    missing = [name for one in shown_sections for name in one.missing]
    if missing:
        how = _measuring(facts)
        parts.append(paragraph(tag("strong", "Not measured yet"), class_="label"))
        parts.append(
            listing(join([f"{name}: ", code(how[name])]) if name in how else name for name in missing)
        )
    heading = tag("h2", "Summary", id="summary-title")
    return tag("section", heading, *parts, id="summary", aria_labelledby="summary-title")


def _weight(value: str) -> str:
    return "figure none" if value == NOT_MEASURED else "figure"


def _rate(facts: ReportFacts, name: str, note: str) -> tuple[str, str, str]:
    rate = quality.shown_rate(facts.own, name)
    title = f"{name[:1].upper()}{name[1:]}"
    if rate is None or rate["rate"] is None:
        return title, NOT_MEASURED, note
    ends = f"{share(rate['low'], 2)} to {share(rate['high'], 2)}"
    return title, share(rate["rate"], 2), f"{note}; 95 % interval {ends}"


def _measuring(facts: ReportFacts) -> dict[str, str]:
    """Returns the command that measures what may be missing."""
    known, run = facts.own.certificate["commands"], quote(facts.own.run.name)
    how = {
        FALSE_NEGATIVES: known["false_negative_rate"],
        HIDDEN: known["audit"],
        FRONTIER: f"miner calibrate STORE --run {run}",
        training.BENCH: f"miner bench STORE --run {run} --out bench",
        training.TRAINING: f"miner train STORE model --run {run}",
    }
    return {name: command(text, facts.store) for name, text in how.items()}
