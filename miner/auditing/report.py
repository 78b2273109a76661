"""Audits, calibrations and relabellings as people read them, and the calibrated rules as a recipe with
charts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miner.auditing.audit import CAVEAT, Audit, JudgedOutcomes
from miner.auditing.calibrate import Calibration
from miner.auditing.choice import Figures, SweptRules
from miner.auditing.relabel import RelabelReport
from miner.auditing.replay import NegativesLeft
from miner.auditing.separation import comparison
from miner.auditing.transfer import MOST_DROPPED
from miner.engine.files import WAIT, is_stream, locked, replacing_all, require_file
from miner.errors import UsageError, counted, listed, printable
from miner.mining.config import Rules, named_rules
from miner.recipe import written
from miner.reporting.charts import Curve, Panel, draw
from miner.reporting.tables import NONE, decimal, percent, percent_interval, text_table
from miner.stats import Rate
from miner.store.audits import CANNOT_HIDE

_INTERVAL = "95 % interval"
_NUMBER = re.compile(r"-*[\d.]*\d[\d.]*")


def audit_table(audit: Audit, store: str, judged: JudgedOutcomes | None = None) -> str:
    """Returns the hidden-positive rate, in which part of the candidates it arises, and what the rules cost.

    With `judged`, what the judgments say follows the first table.
    """
    parts = [_head(audit), _parts(audit), _outcomes(audit), _costs(audit), *_notes(audit, store)]
    if judged is not None:
        parts.insert(1, judged_table(judged))
    return "\n\n".join(parts)


def _head(audit: Audit) -> str:
    settings, rate = audit.settings, audit.hidden_positive_rate
    times = "once" if settings.repeats == 1 else f"{settings.repeats} times"
    lines = [
        _hideable(audit),
        f"run {audit.run}: {audit.hidden:,.0f} of them hidden, {times} (share {settings.share:g}, "
        f"seed {settings.seed}), and decided again",
        f"  {audit.rules}",
    ]
    if rate.rate is None:
        return "\n".join([*lines, "hidden-positive rate: not measured, because no positive was drawn"])
    rows = [["", "rate", _INTERVAL, "number", ""]]
    meaning = "hidden positives were selected as negatives"
    rows.append(["hidden-positive rate", *_rate(rate), f"{rate.hits:,} of {rate.of:,}", meaning])
    return "\n".join([*lines, *text_table(rows, left=(0, -1))])


def _hideable(audit: Audit) -> str:
    """How many positives can be hidden, and what that means for the queries of the run."""
    lines = [
        f"{audit.hideable:,} of {audit.positives:,} known positives, of "
        f"{counted(audit.queries, 'query', 'queries')}, can be hidden."
    ]
    if 2 * audit.hideable < audit.positives:
        lines.append("The rate describes this minority of the positives.")
    if single := audit.single_positive_queries:
        lines.append(
            f"{single:,} of the queries have one positive; if it is hidden, "
            + (
                "the rules apply as usual."
                if audit.fallback is None
                else f"margins start at {audit.fallback}."
            )
        )
    return "\n".join(lines)


def _rate(rate: Rate) -> list[str]:
    """The cells of a rate and its interval."""
    return [percent(rate.rate, 2), percent_interval(rate.low, rate.high, 2) if rate.of else NONE]


def _parts(audit: Audit) -> str:
    rows = [["hidden positives", "hidden", "selected", "rate", _INTERVAL]]
    parts = {f"found by {name}": rate for name, rate in audit.by_retriever.items()}
    parts |= {f"fused rank {band}": rate for band, rate in audit.by_rank.items()}
    rows += [[name, f"{rate.of:,}", f"{rate.hits:,}", *_rate(rate)] for name, rate in parts.items()]
    return "\n".join(text_table(rows))


_MEANINGS = {
    "negative": "selected as negatives",
    "kept": "kept, not selected",
    "not_found": "not returned by any retriever",
}


def _outcomes(audit: Audit) -> str:
    rows = [["outcome of hidden positives", "number", "share", _INTERVAL]]
    for name, rate in audit.outcomes.items():
        rows.append([_MEANINGS.get(name, f"dropped: {name}"), f"{rate.hits:,}", *_rate(rate)])
    return "\n".join(text_table(rows))


def _costs(audit: Audit) -> str:
    names = [
        f"negatives per query, of {audit.negatives}",
        f"coverage: queries with all {audit.negatives}",
        "queries without negatives",
        "mean rank of the negatives",
        "mean margin to the positives",
    ]
    columns = zip(names, _left(audit.as_mined), _left(audit.as_audited), strict=True)
    return "\n".join(text_table([["negatives left by the rules", "as mined", "with hidden"], *columns]))


def _left(left: NegativesLeft) -> list[str]:
    return [
        decimal(left.per_query, 2),
        percent(left.coverage),
        percent(left.without),
        decimal(left.rank, 2),
        decimal(left.margin, 3),
    ]


_OF_JUDGED = (
    "These are rates of the judged candidates. The false-negative rate is that of all negatives: estimate it "
    "from labels of a random sample (--label)."
)


def judged_table(judged: JudgedOutcomes) -> str:
    """Returns the share of relevant documents among the judged candidates with each outcome."""
    names = {"negative": "selected as negatives", "kept": "kept, not selected"}
    rows = [["judged candidates", "judged", "relevant", "rate", _INTERVAL]]
    for outcome, rate in judged.relevant.items():
        name = names.get(outcome, f"dropped: {outcome}")
        rows.append([name, f"{rate.of:,}", f"{rate.hits:,}", *_rate(rate)])
    head = f"{judged.matched:,} of {judged.judgments:,} judgments are about candidates of the run"
    return "\n".join([head, *text_table(rows), _OF_JUDGED])


def limits(cannot_hide: Mapping[str, int], unknown_training: Sequence[str]) -> list[str]:
    """Returns which positives are never hidden, and which models may have been trained on hidden ones."""
    notes = []
    if cannot_hide:
        reasons = "; ".join(f"{number:,} {CANNOT_HIDE[reason]}" for reason, number in cannot_hide.items())
        notes.append(f"These positives cannot be hidden: {reasons}.")
    if unknown_training:
        notes.append(
            f"The store does not know the training data of: {listed(unknown_training)}. A model that was "
            "trained on these positives recognises them, and the figures are then optimistic."
        )
    return notes


def _notes(audit: Audit, store: str) -> list[str]:
    notes = limits(audit.cannot_hide, audit.unknown_training)
    if audit.calibrated_on is not None:
        notes.append(
            "miner calibrate chose these rules on half of these queries, so the hidden-positive rate is "
            f"optimistic. {_other_half(audit.calibrated_on)}"
        )
    if audit.weak_positives:
        notes.append(
            f"{counted(audit.weak_positives, 'positive scores', 'positives score')} below all negatives of "
            "the query by every scorer that scored both: "
            f"miner sql {store} \"FROM weak_positives WHERE run = '{audit.run}'\""
        )
    return [*notes, CAVEAT]


def _other_half(calibrated_on: Mapping[str, Any]) -> str:
    if calibrated_on["hidden_positive_rate"] is None:
        return (
            f"Their rate on the other half was measured on run {calibrated_on['run']}, whose candidates were "
            "found, scored or selected differently: calibrate this run to measure it."
        )
    rate = Rate(**calibrated_on["hidden_positive_rate"])
    return f"On the other half it was {' '.join(_rate(rate))}."


_COSTS = ("negatives", "coverage", "mean rank", "mean margin")
_ALL_QUERIES = (
    "The frontier is measured on all queries, including those that chose: its lowest rates are optimistic."
)


def calibration_table(calibration: Calibration) -> str:
    """Returns the frontier, the run's own rules, and the chosen setting on both halves."""
    chosen, settings = calibration.chosen, calibration.settings
    head = (
        f"run {calibration.run}: {len(calibration.sweep)} settings; {_request(calibration)}\n"
        f"{_shares(calibration)} of each query's positives hidden, {settings.repeats} times each (seed "
        f"{settings.seed}); the highest of these rates counts"
    )
    by_labels = ["false-negative rate, by labels"] if calibration.labels else []
    rows = [["frontier", *by_labels, "hidden-positive rate", _INTERVAL, *_COSTS]]
    frontier = calibration.frontier()
    extra = [] if any(one.rules == chosen.rules for one in frontier) else [chosen]
    for one in (*frontier, *extra, calibration.own):
        name = calibration.name_of(one) + " (chosen)" * (one.rules == chosen.rules)
        name = f"the run's own: {calibration.name_of(one)}" if one is calibration.own else name
        predicted = [str(one.false_negatives)] if calibration.labels else []
        rows.append([name, *predicted, *_figures(one.all_queries)])
    halves = [[f"chosen: {calibration.name_of(chosen)}", "hidden-positive rate", _INTERVAL, *_COSTS]]
    halves.append(["half that chose", *_figures(chosen.choosing_half)])
    halves.append(["half that confirms", *_figures(chosen.confirming_half)])
    return "\n\n".join(
        [
            "\n".join([head, *text_table(rows), _ALL_QUERIES]),
            "\n".join([*text_table(halves), _verdict(calibration)]),
            *comparison(
                calibration.separation, calibration.tried, calibration.left_out, calibration.below_depth
            ),
            *limits(calibration.cannot_hide, calibration.unknown_training),
            *_window_note(calibration),
            *_support_note(calibration),
            CAVEAT,
        ]
    )


def _shares(calibration: Calibration) -> str:
    shares = ["all but one" if share == 1 else percent(share, 0) for share in calibration.shares]
    return f"{', '.join(shares[:-1])} and {shares[-1]}"


def _window_note(calibration: Calibration) -> list[str]:
    skipped = calibration.own.rules.skip_top
    if not skipped or calibration.labels or calibration.settings.allow_rank_window:
        return []
    return [
        f"The settings of the sweep leave out the run's own skip_top {skipped}: a rank window drops known "
        "positives, which rank high, more surely than those that nobody judged. "
        "--set allow_rank_window=true keeps it."
    ]


def _support_note(calibration: Calibration) -> list[str]:
    others = sum(not one.supported for one in calibration.sweep)
    if not others:
        return []
    return [
        f"{counted(others, 'setting')} cannot be chosen: more than {percent(MOST_DROPPED, 0)} of their "
        "negatives are candidates that the labelled run dropped. No label is of these, and they may be "
        "relevant more often than the labels predict. Label a run with looser rules to try them."
    ]


def _measure(calibration: Calibration) -> str:
    return "false-negative rate by labels" if calibration.labels else "hidden-positive rate"


def _request(calibration: Calibration) -> str:
    measure = _measure(calibration)
    if calibration.target is None:
        return f"lowest {measure} at the coverage of the run's own rules"
    return f"target: a {measure} of at most {percent(calibration.target, 2)}"


def _figures(one: Figures) -> list[str]:
    return [
        *_rate(one.hidden_positive_rate),
        decimal(one.per_query, 2),
        percent(one.coverage),
        decimal(one.rank, 1),
        decimal(one.margin, 3),
    ]


def _verdict_by_labels(calibration: Calibration) -> str:
    """Says whether the interval by labels meets the request, and how to be sure."""
    predicted, limit = calibration.chosen.false_negatives, calibration.limit
    verdict = "confirmed" if calibration.confirmed else "not confirmed"
    within = "within" if calibration.confirmed else "above"
    said = (
        f"{verdict}: by {calibration.labels:,} labels of run {calibration.run} the false-negative rate is "
        f"{predicted}, and its interval ends {within} {percent(limit, 2)}"
    )
    if calibration.chosen.rules == calibration.own.rules:
        return said
    return (
        f"{said}\nthe rules select other negatives than those that were labelled, so the rate is a "
        "prediction; to be sure, decide with them and label a sample of that run: miner audit --label 200 "
        "--out FILE"
    )


def _verdict(calibration: Calibration) -> str:
    if calibration.labels:
        return _verdict_by_labels(calibration)
    interval = percent_interval(calibration.expected.low, calibration.expected.high, 2)
    expected = f"expected on the other half: {interval}"
    chosen = calibration.chosen.confirming_half
    rate = chosen.hidden_positive_rate.rate
    if rate is None:
        why = "no positive of the other half may be hidden; try another seed (--set seed=N)"
        return f"{expected}\nnot confirmed: {why}"
    inside = calibration.expected.low <= rate <= calibration.expected.high
    high = chosen.hidden_positive_rate.high
    lines = [f"{expected}; the rate measured there lies {'inside' if inside else 'outside'}"]
    limit = f"the target of {percent(calibration.target, 2)}"
    if calibration.target is None:
        limit = f"the {percent(calibration.limit, 2)} of the run's own rules"
        coverages = (percent(one.all_queries.coverage) for one in (calibration.chosen, calibration.own))
        lines.append("coverage {}, {} with the run's own rules".format(*coverages))
    measured = f"on the other half the rate is {percent(rate, 2)}"
    if calibration.confirmed:
        lines.append(f"confirmed: {measured}, and its interval ends at {percent(high, 2)}, within {limit}")
    elif rate > calibration.limit:
        lines.append(f"not confirmed: {measured}, above {limit}")
    else:
        lines.append(
            f"not confirmed: {measured}, but its interval ends at {percent(high, 2)}, above {limit}; more "
            "positives would narrow it"
        )
    return "\n".join(lines)


_FIRST_LINE = "# Calibrated on run"


def recipe(calibration: Calibration) -> str:
    """Returns the chosen rules as TOML for `--config`, with the figures as comments."""
    chosen = calibration.chosen
    verdict = "confirmed" if calibration.confirmed else "not confirmed"
    rates = [
        percent(half.hidden_positive_rate.rate, 2) for half in (chosen.choosing_half, chosen.confirming_half)
    ]
    settings, request = calibration.settings, _request(calibration)
    request = request[0].upper() + request[1:]
    lines = [
        f"{_FIRST_LINE} {calibration.run}: {calibration.name_of(chosen)}.",
        f"# {request}: {verdict}.",
        f"# Hidden-positive rate {rates[0]} on the half that chose, {rates[1]} on the other.",
        f"# {_shares(calibration)} of each query's positives hidden, repeats {settings.repeats}, seed "
        f"{settings.seed}.",
        "[rules]",
    ]
    if calibration.labels:
        predicted = f"{chosen.false_negatives}, by {calibration.labels:,} labels of run {calibration.run}"
        lines.insert(2, f"# False-negative rate {predicted}.")
    lines += written(named_rules(chosen.rules))
    return "\n".join(lines) + "\n"


def is_recipe(file: Path) -> bool:
    """Returns whether a file begins as the recipes that calibrations write."""
    with file.open("rb") as stream:
        return stream.read(len(_FIRST_LINE)) == _FIRST_LINE.encode()


def charts_of(recipe: Path) -> tuple[Path, Path]:
    """Returns the paths of a recipe's charts: beside it, with its name."""
    return recipe.with_suffix(".png"), recipe.with_suffix(".svg")


def require_writable(out: Path) -> None:
    """Raises UsageError if a recipe and its charts cannot be written to `out` without losing other files."""
    if is_stream(out):
        raise UsageError(
            f"{out} is a stream, and a calibration writes three files", "name a file, such as strict.toml"
        )
    require_file(out)
    if out.suffix in (".png", ".svg"):
        raise UsageError(f"a recipe cannot be named {out}", "name it .toml: the charts are written beside it")
    if out.exists() and not is_recipe(out):
        raise UsageError(f"{out} was not written by miner calibrate and would be lost", "name another file")
    for chart in charts_of(out):
        if chart.exists() and not out.exists():
            raise UsageError(f"{chart} does not belong to {out} and would be lost", "name another file")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}", "make it, or name another file")


def write_recipe(calibration: Calibration, out: Path) -> None:
    """Writes the recipe to `out`, and charts of the sweep beside it as .png and .svg."""
    # The recipe first: a chart without a recipe counts as another program's file.
    with locked(out, WAIT), replacing_all([out, *charts_of(out)]) as (toml, png, svg):
        toml.write_text(recipe(calibration), "utf-8")
        title = f"{calibration.run}: {_measure(calibration)} against coverage and rank"
        draw(title, _panels(calibration), png, svg)


def _panels(calibration: Calibration) -> list[Panel]:
    groups: dict[str, list[SweptRules]] = {}
    for one in calibration.sweep:
        # The name of the rule without its parameter.
        name = calibration.name_of(one)
        words = [word for word in name.replace(",", "").split() if not _NUMBER.fullmatch(word)]
        groups.setdefault(" ".join(words), []).append(one)
    for settings in groups.values():
        settings.sort(key=lambda one: one.overall.rate or 0)
    groups["chosen"] = [calibration.chosen]
    groups["the run's own"] = [calibration.own]
    with_interval = {one.rules for one in (*calibration.frontier(), calibration.own)}
    return [
        Panel(f"{_measure(calibration)}, %", label, _curves(groups, field, times, with_interval), True)
        for label, field, times in (
            ("coverage, %", "coverage", 100),
            ("mean rank of the negatives", "rank", 1),
        )
    ]


def _curves(
    groups: dict[str, list[SweptRules]], field: str, times: float, with_interval: set[Rules]
) -> Sequence[Curve]:
    """The settings of each rule; those of the frontier, the chosen one and the run's own have intervals."""
    curves = []
    for name, settings in groups.items():
        known = [one for one in settings if getattr(one.all_queries, field) is not None]
        rates = [one.overall for one in known]
        points = [100 * (rate.rate or 0) for rate in rates]
        ends = [
            (100 * rate.low, 100 * rate.high) if one.rules in with_interval else (point, point)
            for one, rate, point in zip(known, rates, points, strict=True)
        ]
        values = [times * getattr(one.all_queries, field) for one in known]
        low, high = [end for end, _ in ends], [end for _, end in ends]
        curves.append(Curve(name, points, values, x_low=low, x_high=high))
    return curves


_RELABEL_CAVEAT = (
    "The precision measures how well hidden positives are separated from documents that nobody judged, with "
    "as many positives hidden. The relabelled pairs are among those that nobody judged, so how many of them "
    "are relevant is unknown: read some of them."
)


def relabel_table(report: RelabelReport, dry_run: bool) -> str:
    """Returns recall and precision on hidden positives, and how many suspected positives were relabelled."""
    lines = [
        f"run {printable(report.run)}, probability {report.probability:g} or more",
        f"recall      {_share_of(report.recall)} hidden positives would be relabelled",
        f"precision   {_share_of(report.precision)} pairs that would be relabelled are hidden positives; "
        "unjudged documents count as not relevant",
        f"suspected   {report.suspected:,} candidates, "
        f"{report.relabelled:,} of them with at least that probability",
    ]
    if report.again:
        lines.append(f"relabelled  {report.relabelled:,} judgments; decided again as run {report.again}")
    else:
        lines.append("relabelled  none" + (": --dry-run" if dry_run and report.relabelled else ""))
    return "\n\n".join(
        ["\n".join(lines), *limits(report.cannot_hide, report.unknown_training), _RELABEL_CAVEAT]
    )


def _share_of(rate: Rate) -> str:
    if rate.rate is None:
        return "none of 0"
    return f"{percent(rate.rate)} {percent_interval(rate.low, rate.high)}, {rate.hits:,} of {rate.of:,}"
