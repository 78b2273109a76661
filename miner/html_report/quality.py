"""The sections on how wrong a run is: its false negatives, other rules, the certificate, the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from shlex import quote
from typing import Any

from miner.auditing.label_parts import PartRate
from miner.errors import counted, printable
from miner.export.certificate import render as certificate_text
from miner.html_report.charts import Series, Span, curves, figure, interval_chart
from miner.html_report.facts import ReportFacts, RunFigures
from miner.html_report.markup import Html, code, paragraph, share, table, tag
from miner.html_report.section import ReportSection, command, not_measured
from miner.mining.config import SEVERAL, MiningConfig, Rules, named_rules
from miner.recipe import as_text
from miner.reporting.tables import decimal

FALSE_NEGATIVES, HIDDEN, FRONTIER = "false-negative rate", "hidden-positive rate", "frontier of the rules"
"""What may not be measured, in the words of the list of what is missing."""
NOT_MEASURED = "not measured"


def with_ends(rate: Mapping[str, Any] | None) -> str:
    """Returns a rate with its interval in percent; `not measured` without one."""
    if rate is None or rate.get("rate") is None:
        return NOT_MEASURED
    return f"{share(rate['rate'], 2)} ({share(rate['low'], 2)} to {share(rate['high'], 2)})"


def false_negatives(facts: ReportFacts) -> ReportSection:
    """Returns the false-negative rate by labels and the hidden-positive rate of the last audit."""
    certificate = facts.own.certificate
    commands, labelled, audit = (certificate[name] for name in ("commands", "false_negative_rate", "audit"))
    parts: list[Html] = [tag("h3", "By labels: the false-negative rate")]
    missing = []
    if labelled is None:
        missing.append(FALSE_NEGATIVES)
        parts.append(not_measured("False-negative rate", commands["false_negative_rate"], facts.store))
    else:
        parts += _labelled(facts, labelled)
    parts.append(tag("h3", "By hidden positives: the hidden-positive rate"))
    if audit is None:
        missing.append(HIDDEN)
        parts.append(not_measured("Hidden-positive rate", commands["audit"], facts.store))
    else:
        parts += _audited(audit, facts.hidden)
    return ReportSection("false-negatives", "False negatives", parts, missing)


def _labelled(facts: ReportFacts, found: Mapping[str, Any]) -> Iterator[Html]:
    sources = ", ".join(f"{number:,} by a {source}" for source, number in found["sources"].items())
    by_query = {"rate": found["per_query"], "low": found["per_query_low"], "high": found["per_query_high"]}
    yield paragraph(
        tag("strong", with_ends(found)),
        f" of the {found['negatives']:,} negatives are relevant to their query, estimated from "
        f"{counted(found['labels'], 'label')} of a random sample ({sources}), {found['relevant']:,} of them "
        f"relevant. The mean over queries is {with_ends(by_query)}. The interval in parentheses is that of "
        f"95 %. Estimator: {found['estimator']}.",
    )
    if (judge := found.get("judge")) is not None:  # older results have none
        rate, low, high = found["without_judge"]
        without = with_ends({"rate": rate, "low": low, "high": high})
        yield paragraph(
            f"The grades of judge {printable(judge)} for {found['graded']:,} negatives serve as predictions, "
            f"which the labels correct. Without them the rate is {without}."
        )
    note = "Points with 95 % intervals. Likely false negatives are sampled more often, and weighted less."
    yield from _by_part(facts.parts, "False-negative rate", "label", note)


def _by_part(parts: Sequence[PartRate], what: str, unit: str, note: str) -> Iterator[Html]:
    """Yields a rate by rank, and by retriever, as far as it is known."""
    kinds = {"rank": "by fused rank", "retriever": "by the retriever that found them"}
    for kind, how in kinds.items():
        own = [one for one in parts if one.kind == kind]
        if not own:
            continue
        title = f"{what} {how}"
        spans = [
            Span(
                _part(kind, one.part),
                100 * one.rate,
                100 * one.low,
                100 * one.high,
                f"{share(one.rate)}, {counted(one.labels, unit)}",
            )
            for one in own
        ]
        about = "; ".join(f"{span.label}: {span.note}" for span in spans)
        hits = {"label": "relevant labels"}.get(unit, "selected")
        numbers = table(
            title,
            ("part", "rate", "95 % interval", f"{unit}s", hits),
            [
                (
                    _part(kind, one.part),
                    share(one.rate, 2),
                    f"{share(one.low, 2)} to {share(one.high, 2)}",
                    f"{one.labels:,}",
                    f"{one.relevant:,}",
                )
                for one in own
            ],
        )
        yield figure(title, interval_chart(title, about, spans, "\u00a0%"), numbers, note=note)


def _part(kind: str, part: str) -> str:
    return part if kind == "retriever" else f"rank {part.replace('-', ' to ')}"


def _audited(audit: Mapping[str, Any], hidden: Sequence[PartRate]) -> Iterator[Html]:
    rate = audit["hidden_positive_rate"]
    yield paragraph(
        tag("strong", with_ends(rate)),
        f" of the hidden positives were selected as negatives. Known positives were hidden "
        f"({audit['hidden']:,.0f} at a time), and the run was decided again as if nobody had judged them. ",
        audit["caveat"],
    )
    outcomes = [(name, one) for name, one in (audit["outcomes"] or {}).items() if one["rate"] is not None]
    title = "What became of the hidden positives"
    if outcomes:
        spans = [
            Span(
                _outcome(name),
                100 * one["rate"],
                100 * one["low"],
                100 * one["high"],
                share(one["rate"], 2),
            )
            for name, one in outcomes
        ]  # fmt: skip
        about = "; ".join(f"{span.label}: {span.note}" for span in spans)
        numbers = table(
            title,
            ("outcome", "share", "95 % interval", "hidden positives", "of"),
            [
                (_outcome(name), share(one["rate"], 2),
                 f"{share(one['low'], 2)} to {share(one['high'], 2)}",
                 f"{one['hits']:,}", f"{one['of']:,}")
                for name, one in outcomes
            ],
        )  # fmt: skip
        yield figure(title, interval_chart(title, about, spans, "\u00a0%"), numbers)
    note = "Points with 95 % intervals."
    yield from _by_part(hidden, "Hidden-positive rate", "hidden positive", note)
    left = audit["as_mined"]
    yield paragraph(
        f"As mined: {decimal(left['per_query'], 2)} negatives per query, coverage "
        f"{share(left['coverage'])}, mean rank {decimal(left['rank'], 1)}, mean margin to the positives "
        f"{decimal(left['margin'], 3)}. Positives that score below all negatives of their query: "
        f"{audit['weak_positives']:,}."
    )


def _outcome(name: str) -> str:
    known = {"negative": "selected as a negative", "kept": "kept, not needed", "not_found": "not found"}
    return known.get(name, f"dropped: {name.replace('_', ' ')}")


def frontier(facts: ReportFacts) -> ReportSection:
    """Returns what other rules would do: the frontier of the last calibration."""
    found = facts.frontier
    title = "Other rules"
    if found is None or not found["points"]:
        how = f"miner calibrate STORE --run {quote(facts.own.run.name)}"
        missing = not_measured("Frontier of the rules", how, facts.store)
        return ReportSection("frontier", title, [missing], [FRONTIER])
    measure = FALSE_NEGATIVES if found["labels"] else HIDDEN
    points = sorted(found["points"], key=lambda one: (one["rate"] or 0, one["per_query"]))
    numbered = list(enumerate(points, 1))
    roles = {
        "settings that no other beats": "frontier",
        "chosen by calibrate": "chosen",
        "this run's rules": "own",
    }
    series = [
        Series(
            name,
            [(100 * (one["rate"] or 0), one["per_query"]) for _, one in numbered if one[key]],
            [str(number) for number, one in numbered if one[key]],
            is_joined=False,
        )
        for name, key in roles.items()
    ]
    series = [one for one in series if one.points]
    name = f"Negatives per query against the {measure}"
    about = "; ".join(
        f"{number}: {one['name']}, {share(one['rate'], 2)}, {one['per_query']:.2f} per query"
        for number, one in numbered
    )
    numbers = table(
        "Settings of the rules: those that no other beats, the chosen one and this run's own",
        ("setting", "rules", measure, "95 % interval", "per query", "coverage", "mean rank", "mean margin"),
        [
            (
                str(number),
                one["name"] + " (chosen)" * one["chosen"] + " (this run's)" * one["own"],
                share(one["rate"], 2),
                f"{share(one['low'], 2)} to {share(one['high'], 2)}",
                f"{one['per_query']:.2f}",
                share(one["coverage"]),
                decimal(one["rank"], 1),
                decimal(one["margin"], 3),
            )
            for number, one in numbered
        ],
        left=(0, 1),
    )
    chart = curves(name, about, series, f"{measure}, %", "negatives per query")
    lead = paragraph(
        code("miner calibrate"),
        f" measured the {measure} of many settings over the stored candidates. Further left "
        "is safer, further up leaves more negatives. The rates of the frontier are measured on the queries "
        "that also chose it, and are optimistic.",
    )
    return ReportSection(
        "frontier", title, [lead, figure(name, chart, numbers, note="The table has the rules by number.")]
    )


def certificate(facts: ReportFacts) -> ReportSection:
    """Returns the certificate, in the words that `miner export` writes into a card."""
    text = certificate_text(facts.own.certificate).partition("\n\n")[2]
    lead = paragraph("An export of this run has this certificate in its card.")
    return ReportSection("certificate", "Certificate", [lead, tag("blockquote", *_from_markdown(text))])


def _from_markdown(text: str) -> Iterator[Html]:
    """Yields the paragraphs and lists of a certificate. Everything is escaped first."""
    for block in text.split("\n\n"):
        lines = block.split("\n")
        if all(line.startswith("- ") for line in lines):
            yield tag("ul", *(tag("li", _inline(line[2:])) for line in lines))
        else:
            yield paragraph(_inline(block))


def _inline(text: str) -> Html:
    """Returns a text with its code and bold parts as markup; neither can reach over an end of the other."""
    parts = re.split(r"`([^`]+)`", escape(printable(text, keep="\n")))
    for position, part in enumerate(parts):
        if position % 2:
            parts[position] = f"<code>{part}</code>"
        else:
            spaced = re.sub(r"(?<=\d) %", "\u00a0%", part)
            parts[position] = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", spaced)
    return Html("".join(parts))


def commands(facts: ReportFacts, settings: Html) -> ReportSection:
    """Returns the commands that make the run again, measure it again, and write this page."""
    own, store = facts.own, facts.store
    known = own.certificate["commands"]
    made, labelled = mine_command(own, store), own.certificate["false_negative_rate"]
    against = "" if facts.against is None else f" --against {quote(facts.against.figures.run.name)}"
    name, measured = quote(own.run.name), own.certificate
    steps = [
        ("Read the data", f"miner ingest {quote(store)} SOURCE", True),
        ("Find copies", command(known["copies"], store), measured["copies"] is not None),
        *(
            ("Find contamination", command(one, store), measured["contamination"] is not None)
            for one in known["contamination"]
        ),
        ("Mine", made or "miner mine, by another version of miner", True),
        ("Measure hidden positives", command(known["audit"], store), measured["audit"] is not None),
        ("Draw a sample to label", command(known["false_negative_rate"], store), bool(labelled)),
        ("Read the labels", f"miner audit {quote(store)} --run {name} --labels sample.csv", bool(labelled)),
        ("Write this page", f"miner report {quote(store)} report.html --run {name}{against}", True),
    ]
    listed = tag(
        "ol",
        *(
            tag("li", what if ran else f"{what} (not done)", tag("br"), code(text))
            for what, text, ran in steps
        ),
        class_="commands",
    )
    run = own.run
    finished = "" if run.finished is None else f", finished {run.finished:%Y-%m-%d %H:%M} UTC"
    versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
    about = paragraph(
        "Run ",
        code(run.run_id),
        f", seed {run.seed}{finished}. ",
        f"Made with {versions}." if versions else "",
    )
    return ReportSection("commands", "The commands that made it", [listed, about, settings])


def mine_command(own: RunFigures, store: str) -> str | None:
    """Returns the `miner mine` that makes a run again; None if its settings cannot be read."""
    config = own.config
    if config is None:
        return None
    words = ["miner", "mine", quote(store), "--name", quote(own.run.name)]
    for part in fields(MiningConfig):
        value, default = getattr(config, part.name), getattr(_DEFAULT, part.name)
        if part.name in ("rules", "selection") or value == default:
            continue
        if part.name in SEVERAL:
            words += [word for one in value for word in (f"--{part.name}", quote(one))]
        elif part.name == "protected":
            words += ["--set", "protected=@FILE"]
        else:
            words += _assigned(part.name, value)
    if config.rules != Rules():
        rules = named_rules(config.rules)
        defaults = {"reference_positive": Rules().reference_positive}
        for name, value in rules.items():
            if defaults.get(name, ...) != value:
                words += _assigned(name, value)
    for part in fields(type(config.selection)):
        value, default = getattr(config.selection, part.name), getattr(_DEFAULT.selection, part.name)
        if value != default:
            words += _assigned(part.name, value)
    return " ".join(words)


_DEFAULT = MiningConfig()


def _assigned(name: str, value: object) -> Sequence[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [word for one in values for word in ("--set", quote(f"{name}={as_text(one)}"))]


def shown_rate(facts: RunFigures, name: str) -> Mapping[str, Any] | None:
    """Returns one of the two rates of a run: FALSE_NEGATIVES or HIDDEN; None if it is not measured."""
    if name == FALSE_NEGATIVES:
        found: Mapping[str, Any] | None = facts.certificate["false_negative_rate"]
        return found
    audit = facts.certificate["audit"]
    return None if audit is None else audit["hidden_positive_rate"]
