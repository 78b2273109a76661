"""The rules: they drop candidates for their score or rank, each with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.mining.config import RULES, MiningConfig, Rules
from miner.schema import KEPT as KEPT
from miner.schema import Reason

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]

REASONS = tuple(Reason)
"""The code of a reason is its index here."""


@dataclass(frozen=True)
class Scored:
    """Candidates before the rules: arrays of one length."""

    score: Floats
    """Deciding score, finite."""
    reference: Floats
    """Score of the reference positive."""
    best_rank: Ints
    """The best rank from any retriever."""
    judged_negative: npt.NDArray[np.bool_]
    """Whether a judgment or a label says that it is a negative: no rule drops it for a high score."""
    agreeing: Ints | None = None
    """How many scorers put it below the reference positive; None if no rule depends on it."""


def name_of(rules: Rules) -> str:
    """Returns the rules that are on, with their parameters, and the reference positive if a rule uses it.

    A scorer that is named to decide follows.
    """
    reference = f", reference positive {rules.reference_positive}" if _starts_from_positives(rules) else ""
    return _names(rules) + reference + (f", by {rules.decide_by}" if rules.decide_by is not None else "")


def in_force(config: MiningConfig) -> str:
    """Returns the rules in force in a run as people read them, such as `rules: percentile 5`.

    The reference positive follows if a rule, SimANS or the pairing of triplets uses it, then the scorer that
    is named to decide.
    """
    reference = f"; reference positive: {config.rules.reference_positive}"
    by = f"; decided by {config.rules.decide_by}" if config.rules.decide_by is not None else ""
    return f"rules: {_names(config.rules)}" + (reference if uses_reference(config) else "") + by


def uses_reference(config: MiningConfig) -> bool:
    """Returns whether a rule, SimANS or the pairing of triplets uses the reference positive."""
    rules, strategy = config.rules, config.selection.strategy
    return _starts_from_positives(rules) or strategy == "ambiguous" or rules.reference_positive == "each"


def _names(rules: Rules) -> str:
    on = [name for name in _ORDER if getattr(rules, name) != RULES[name]]
    return " + ".join(f"{name} {getattr(rules, name):g}" for name in on) or "no rule"


def _starts_from_positives(rules: Rules) -> bool:
    return any(getattr(rules, name) is not None for name in (*FROM_REFERENCE, "agree"))


def reference_scores(owner: Ints, score: Floats, queries: int, kind: str) -> Floats:
    """Returns each query's reference score: the lowest, median or best of its positives' scores.

    `owner` numbers each positive's query, sorted; queries without a positive that has a finite score get NaN.
    """
    result = np.full(queries, np.nan)
    known = np.isfinite(score)
    if not known.all():
        owner, score = owner[known], score[known]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    numbers = owner[starts]
    if kind == "median":
        counts = np.diff(starts, append=len(owner))
        ranked, several = score.copy(), np.repeat(counts > 1, counts)
        ranked[several] = score[several][np.lexsort((score[several], owner[several]))]
        low, high = starts + (counts - 1) // 2, starts + counts // 2
        result[numbers] = (ranked[low] + ranked[high]) / 2
    else:
        result[numbers] = (np.minimum if kind == "lowest" else np.maximum).reduceat(score, starts)
    return result


def distribution(scores: Floats, values: Floats) -> Floats:
    """Returns F(value): the share of positives' `scores` (sorted) at or below each value."""
    return np.searchsorted(scores, values, side="right") / max(1, len(scores))


def apply(rules: Rules, rows: Scored, positives: Floats) -> Codes:
    """Returns the code of the first rule that drops each row, or KEPT.

    `positives` are all positives' deciding scores, sorted.
    """
    codes = np.full(len(rows.score), KEPT, dtype=np.int16)
    for reason, drops in _active(rules, positives):
        dropped, code = drops(rows) & (codes == KEPT), REASONS.index(reason)
        if code in TOO_HIGH:
            dropped &= ~rows.judged_negative
        codes[dropped] = code
    return codes


BOUNDS = ("max_score", "absolute_margin", "relative_margin", "percentile", "relative_percentile")
"""The rules against high scores. Each bounds the score from above; its reason has the same name."""
FROM_REFERENCE = ("absolute_margin", "relative_margin", "relative_percentile")
"""The ones among them that depend on the reference positive; `agree` does too."""
_ORDER = ("skip_top", "max_rank", "max_score", "min_score", *BOUNDS[1:], "agree")
"""All rules in the order in which they are applied."""
TOO_HIGH = tuple(REASONS.index(Reason(name)) for name in (*BOUNDS, Reason.AGREE))
"""The codes of the rules against high scores, which never apply to known negatives."""

Drops = Callable[[Scored], npt.NDArray[np.bool_]]
Bound = Callable[[Floats], Floats]


def _active(rules: Rules, positives: Floats) -> list[tuple[Reason, Drops]]:
    """The rules in force, in the order in which they are applied."""
    active: list[tuple[Reason, Drops]] = []
    if rules.skip_top or rules.max_rank is not None:
        active.append((Reason.RANK_WINDOW, lambda rows: outside_window(rules, rows.best_rank)))
    bounds = _bounds(rules, positives)
    if (bound := bounds.pop(Reason.MAX_SCORE, None)) is not None:
        active.append((Reason.MAX_SCORE, _above(bound)))
    if (least := rules.min_score) is not None:
        active.append((Reason.MIN_SCORE, lambda rows: rows.score < least))
    active += [(reason, _above(bound)) for reason, bound in bounds.items()]
    if (agree := rules.agree) is not None:
        active.append((Reason.AGREE, lambda rows: _disagreeing(rows, agree)))
    return active


def _disagreeing(rows: Scored, least: int) -> npt.NDArray[np.bool_]:
    if rows.agreeing is None:
        raise ValueError("agree needs the scores of all scorers")
    return rows.agreeing < least


def _above(bound: Bound) -> Drops:
    return lambda rows: rows.score > bound(rows.reference)


def _bounds(rules: Rules, positives: Floats, shares: Floats | None = None) -> dict[Reason, Bound]:
    """The highest score that each rule against high scores allows, given the reference score.

    `shares` are `distribution` of the reference scores, if the caller has them.
    """
    bounds: dict[Reason, Bound] = {}
    if (most := rules.max_score) is not None:
        bounds[Reason.MAX_SCORE] = lambda reference: np.full_like(reference, most)
    if (absolute := rules.absolute_margin) is not None:
        bounds[Reason.ABSOLUTE_MARGIN] = lambda reference: reference - absolute
    if (relative := rules.relative_margin) is not None:
        bounds[Reason.RELATIVE_MARGIN] = lambda reference: reference - np.abs(reference) * relative
    if rules.percentile is not None and len(positives):
        threshold = percentile_of(positives, rules.percentile)
        bounds[Reason.PERCENTILE] = lambda reference: np.full_like(reference, threshold)
    if (share := rules.relative_percentile) is not None:
        bounds[Reason.RELATIVE_PERCENTILE] = lambda reference: _below_share(
            positives, share * (distribution(positives, reference) if shares is None else shares)
        )
    return bounds


def _below_share(positives: Floats, share: Floats) -> Floats:
    """The highest score s with F(s) at most each share, F the distribution of `positives` (sorted)."""
    number = len(positives)
    # The most positives whose share is at most each: a division decides, as in `distribution`.
    allowed = np.clip((share * number).astype(np.int64), 0, number)
    allowed -= allowed / max(1, number) > share
    allowed += (allowed < number) & ((allowed + 1) / max(1, number) <= share)
    highest = np.where(allowed < 0, -np.inf, np.inf)
    # F rises at each positive's score: s must be below the first one that exceeds the share.
    inside = (allowed >= 0) & (allowed < number)
    highest[inside] = np.nextafter(positives[allowed[inside]], -np.inf)
    return highest


def percentile_of(scores: Floats, percent: float) -> float:
    """Returns a percentile of sorted scores as `numpy.percentile` does, without looking at all of them."""
    index = (len(scores) - 1) * (percent / 100)
    before = int(index)
    low, high = float(scores[before]), float(scores[min(before + 1, len(scores) - 1)])
    part = index - before
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


def highest(rules: Rules, reference: Floats, positives: Floats, shares: Floats | None = None) -> Floats:
    """Returns the highest score that all rules against high scores allow, for each reference score.

    `positives` are all positives' deciding scores, ascending; infinity if no rule bounds. `shares` are
    `distribution` of the reference scores, for a caller that asks often.
    """
    bound = np.full_like(reference, np.inf)
    for limit in _bounds(rules, positives, shares).values():
        bound = np.fmin(bound, limit(reference))
    return bound


def outside_window(rules: Rules, best_rank: Ints) -> npt.NDArray[np.bool_]:
    """Returns which of the best ranks from any retriever the rules `skip_top` and `max_rank` drop."""
    outside = best_rank <= rules.skip_top
    if rules.max_rank is not None:
        outside |= best_rank > rules.max_rank
    return outside
