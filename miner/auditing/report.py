"""An audit as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miner.auditing.audit import CANNOT_KNOW, Audit
from miner.auditing.outside import Judged
from miner.auditing.replay import Yield
from miner.reporting.tables import decimal, percent, percent_interval, text_table
from miner.stats import Rate
from miner.store.audits import CANNOT_HIDE


def table(audit: Audit, store: str, judged: Judged | None = None) -> str:
    """Returns the leak rate, where it comes from, and what the filter costs."""
    parts = [_head(audit), _strata(audit), _outcomes(audit), _costs(audit), *_notes(audit, store)]
    if judged is not None:
        parts.insert(1, judged_table(judged))
    return "\n\n".join(parts)


def _head(audit: Audit) -> str:
    settings = audit.settings
    times = "once" if settings.repeats == 1 else f"{settings.repeats} times"
    head = (
        f"run {audit.run}: {audit.hidden:,.0f} of {audit.positives:,} known positives hidden, {times} "
        f"(share {settings.share:g}, seed {settings.seed}), and decided again"
    )
    rows = [
        ["", "rate", "95 % interval", ""],
        ["leak rate", *_cells(audit.leak), "hidden positives came back as negatives"],
        ["wrong", *_cells(audit.wrong), "negatives of their queries are hidden positives"],
    ]
    return "\n".join([head, f"  {audit.rules}", *text_table(rows, left=(0, -1))])


def _cells(rate: Rate) -> list[str]:
    return [percent(rate.rate, 2), f"{percent_interval(rate.low, rate.high, 2)} {rate.hits:,} of {rate.of:,}"]


def _strata(audit: Audit) -> str:
    rows = [["hidden positives", "hidden", "leaked", "leak rate", "95 % interval"]]
    named = {f"found by {name}": rate for name, rate in audit.found_by.items()}
    named |= {f"fused rank {band}": rate for band, rate in audit.bands.items()}
    for name, rate in named.items():
        interval = percent_interval(rate.low, rate.high, 2) if rate.of else "-"
        rows.append([name, f"{rate.of:,}", f"{rate.hits:,}", percent(rate.rate, 2), interval])
    return "\n".join(text_table(rows))


_MEANINGS = {
    "negative": "came back as negatives",
    "kept": "passed every rule, and were not needed",
    "not_found": "no retriever returned them",
}


def _outcomes(audit: Audit) -> str:
    rows = [["what became of them", "of hidden", "share", "95 % interval"]]
    for name, rate in audit.outcomes.items():
        meaning = _MEANINGS.get(name, f"dropped: {name}")
        interval = percent_interval(rate.low, rate.high, 2)
        rows.append([meaning, f"{rate.hits:,}", percent(rate.rate, 2), interval])
    return "\n".join(text_table(rows))


def _costs(audit: Audit) -> str:
    columns = (audit.as_mined, audit.as_audited)
    rows = [["what the rules cost", "as mined", "with hidden"]]
    lines: list[tuple[str, str, str]] = [
        (f"negatives per query, of {audit.asked}", "per_query", "number"),
        (f"queries with all {audit.asked}", "full", "share"),
        ("queries with none", "without", "share"),
        ("mean rank of the negatives", "rank", "number"),
        ("mean margin to the positives", "margin", "score"),
    ]
    for name, field, kind in lines:
        rows.append([name, *[_value(one, field, kind) for one in columns]])
    return "\n".join(text_table(rows))


def _value(one: Yield, field: str, kind: str) -> str:
    value = getattr(one, field)
    return percent(value) if kind == "share" else decimal(value, {"number": 2, "score": 3}[kind])


def judged_table(judged: Judged) -> str:
    """Returns what people say of each outcome's candidates, and how many of their judgments are of any."""
    rows = [["judged by people", "judged", "relevant", "rate", "95 % interval"]]
    for outcome, rate in judged.relevant.items():
        interval = percent_interval(rate.low, rate.high, 2)
        name = {"negative": "negatives", "kept": "kept, not needed"}.get(outcome, f"dropped: {outcome}")
        rows.append([name, f"{rate.of:,}", f"{rate.hits:,}", percent(rate.rate, 2), interval])
    told = f"{judged.matched:,} of {judged.judgments:,} judgments are about candidates of the run"
    return "\n".join([told, *text_table(rows)])


def limits(barred: Mapping[str, int], untold: Sequence[str]) -> list[str]:
    """Returns which positives are never hidden, and which models may know those that are."""
    notes = []
    if barred:
        told = "; ".join(f"{number:,} {CANNOT_HIDE[bar]}" for bar, number in barred.items())
        notes.append(f"Never hidden: {told}.")
    if untold:
        notes.append(
            f"Nothing is known of what {' and '.join(untold)} was trained on. A model that has seen "
            "these positives recognises them, and the figures flatter."
        )
    return notes


def _other_half(chosen: Mapping[str, Any]) -> str:
    if chosen["hidden_positive_rate"] is None:
        return (
            f"What they leak on the other half was measured of run {chosen['run']}, whose negatives were "
            "found, scored or selected otherwise: calibrate this run to know."
        )
    leak = Rate(**chosen["hidden_positive_rate"])
    return f"On the other half it was {percent(leak.rate, 2)} {percent_interval(leak.low, leak.high, 2)}."


def _notes(audit: Audit, store: str) -> list[str]:
    notes = limits(audit.barred, audit.untold)
    if audit.chosen_on is not None:
        notes.append(
            f"miner calibrate chose these rules on half of these queries, so the leak rate flatters. "
            f"{_other_half(audit.chosen_on)}"
        )
    if audit.weak_positives:
        notes.append(
            f"{audit.weak_positives:,} positives score below each of their query's negatives in every score: "
            f"miner sql {store} \"FROM weak_positives WHERE run = '{audit.run}'\""
        )
    return [*notes, CANNOT_KNOW]
