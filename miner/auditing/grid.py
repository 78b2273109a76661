"""The settings that a calibration tries: every rule over a range of its parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

import numpy as np

from miner.auditing.hiding import Hideable
from miner.auditing.sweep import only
from miner.mining.config import Rules
from miner.mining.rules import BOUNDS, FROM_REFERENCE

REFERENCE_POSITIVES = ("lowest", "median", "best")
RELATIVE = (-0.2, -0.1, -0.05, 0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
ABSOLUTE = (-0.5, -0.25, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""In standard deviations of the positives' scores."""
PERCENTILES = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
SKIPS = (1, 2, 3, 5, 10, 20, 30, 50)
_STRICTER_ABOVE = ("absolute_margin", "relative_margin")
"""The rules that drop more with a greater parameter; the others of BOUNDS drop more with a smaller one."""


def candidates(base: Rules, hideable: Hideable, rank_window: bool = False) -> list[Rules]:
    """Returns the settings to try: each rule alone over its parameter; the other settings of `base` stay.

    With `rank_window` these include settings of `skip_top`, and that of `base` stays; without, it is off. A
    rank window drops known positives, which rank high, more surely than those that nobody judged: hidden
    positives cannot show what it is worth.
    """
    scores = hideable.positives.sorted_scores
    spread = float(np.std(scores))
    base = base if rank_window else replace(base, skip_top=0)
    tried = [only(base)]
    # A query with a single positive has the same reference positive, whatever the kind.
    for kind in REFERENCE_POSITIVES if not hideable.single.all() else [base.reference_positive]:
        tried += [only(base, reference_positive=kind, relative_margin=m) for m in RELATIVE]
        tried += [only(base, reference_positive=kind, absolute_margin=rounded(m * spread)) for m in ABSOLUTE]
        tried += [only(base, reference_positive=kind, relative_percentile=b) for b in SHARES]
    tried += [only(base, percentile=p) for p in PERCENTILES]
    tried += [only(base, max_score=rounded(float(np.percentile(scores, p)))) for p in PERCENTILES]
    if rank_window:
        tried += [only(base, skip_top=n) for n in SKIPS if base.max_rank is None or n < base.max_rank]
    least = -np.inf if base.min_score is None else base.min_score
    return [rules for rules in dict.fromkeys(tried) if rules.max_score is None or rules.max_score >= least]


def families(settings: Sequence[Rules]) -> Iterator[tuple[str, list[Rules]]]:
    """Yields each rule that is on alone, with its settings from the strictest to the loosest.

    A rule with another scorer, another reference positive or another rank window is another one.
    """
    found: dict[tuple[str, str | None, int, str | None], list[Rules]] = {}
    for rules in settings:
        on = [name for name in BOUNDS if getattr(rules, name) is not None]
        if len(on) == 1:
            kind = rules.reference_positive if on[0] in FROM_REFERENCE else None
            found.setdefault((on[0], kind, rules.skip_top, rules.decide_by), []).append(rules)
    for (name, *_), alike in found.items():
        alike.sort(key=attrgetter(name), reverse=name in _STRICTER_ABOVE)
        yield name, alike


def rounded(value: float) -> float:
    """Returns a parameter with four significant digits."""
    return float(f"{value:.4g}")
