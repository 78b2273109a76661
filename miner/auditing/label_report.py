"""Estimates from labels, and samples to label, as people read them."""

from __future__ import annotations

from miner.auditing.labels import NARROW, FalseNegativeRate, LabelSample
from miner.errors import counted, printable
from miner.reporting.tables import percent, percent_interval, text_table

_INTERVAL = "95 % interval"


def label_table(found: FalseNegativeRate) -> str:
    """Returns the false-negative rate by labels, per negative and per query, and what it rests on."""
    sources = ", ".join(f"{number:,} by a {source}" for source, number in found.sources.items())
    rows = [
        ["", "rate", _INTERVAL, ""],
        [
            "false-negative rate", percent(found.rate, 2), percent_interval(found.low, found.high, 2),
            f"of {found.negatives:,} negatives are relevant",
        ],
        [
            "  per query", percent(found.per_query, 2),
            percent_interval(found.per_query_low, found.per_query_high, 2),
            "of a query's negatives, mean over queries",
        ],
    ]  # fmt: skip
    notes = [
        f"from {found.labels:,} labels ({sources}; {found.relevant:,} relevant; seed {found.seed}); "
        "likely false negatives are sampled more, and the estimate allows for that"
    ]
    if found.judge is not None and found.without_judge is not None:
        rate, low, high = found.without_judge
        notes.append(
            f"the grades of judge {printable(found.judge)} for {found.graded:,} negatives serve as "
            f"predictions, which the labels correct; without them {percent(rate, 2)} "
            f"{percent_interval(low, high, 2)}"
        )
    if found.unlabelled:
        pairs = counted(found.unlabelled, "pair of the sample has", "pairs of the sample have")
        notes.append(f"{pairs} no label: the estimate assumes that none was left out for what it is")
    if found.judged:
        negatives = counted(found.judged, "negative that is", "negatives that are")
        notes.append(f"the rate counts {negatives} judged not relevant as right")
    head = f"run {printable(found.run)}: false-negative rate, by labels"
    return "\n".join([head, *text_table(rows, left=(0, 3)), *notes])


def sample_table(sample: LabelSample) -> str:
    """Returns what was drawn, and how wide the interval of the false-negative rate will be."""
    pairs = sample.pairs.num_rows
    known = f"; {sample.labelled:,} of them have a label already" if sample.labelled else ""
    labels = f"labels for {100 * NARROW:g} points"
    rows = [["if the false-negative rate is", "the interval is this wide", "of a plain sample", labels]]
    for rate, width in sample.widths.items():
        plain = sample.plain_widths[rate]
        needed = f"{sample.needed[rate]:,}"
        rows.append([percent(rate), f"{100 * width:.1f} points", f"{100 * plain:.1f} points", needed])
    head = f"run {printable(sample.run)}: {pairs:,} of {sample.negatives:,} negatives drawn to label{known}"
    more = "four times as many labels halve the width; a larger sample keeps these labels"
    if pairs == sample.negatives - sample.judged:
        more = "these are all negatives without a judgment: if all are labelled, the rate is exact"
    return "\n".join([head, *text_table(rows), more])
