"""Presets: what to select for what is trained. `--for NAME` sets it; any named setting goes over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miner.errors import UsageError, near
from miner.ranges import literal
from miner.recipe import Setting, as_text

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "mnr": {"negatives": 5, "strategy": "top"},
    "distillation": {"negatives": 8, "strategy": "stratified"},
    "reranker": {"negatives": 5, "strategy": "mixed", "easy_share": 0.4},
}
"""Settings of a mining recipe, flat, by the name of the preset."""
PURPOSES: Mapping[str, str] = {
    "mnr": "an encoder that ranks (losses mnr, cached-mnr, gist, triplet): the hardest negatives",
    "distillation": "an encoder that learns a reranker's scores (margin-mse): negatives over all its scores",
    "reranker": "a cross-encoder: hard negatives and easy ones",
}
"""What each preset is for, in one line."""
MEASURED: Mapping[str, str] = {
    "mnr": "ahead of `stratified` and `random` on tldr; no difference shown on perspectrum",
    "distillation": "no difference to `top` or `random` shown on either: no gain",
    "reranker": "ahead of `top` on tldr, not of `random`; no difference shown on perspectrum",
}
"""What `benchmarks/presets.py` found on dev, against the other strategies."""
NO_GAIN = ("distillation",)
"""The presets of which no benchmark has shown that they pay."""


def preset_values(name: str) -> dict[str, Any]:
    """Returns the settings of a preset, by their flat names; UsageError for an unknown one.

    Values that a recipe or a command line names go over them: `{**preset_values(name), **named}`. No preset
    names a rule, so that the default rule and `Naming a rule replaces the default rule` stay as they are.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise UsageError(
            f"no preset {literal(name)}{near(str(name), PRESETS)}", f"choose one of: {', '.join(PRESETS)}"
        )
    return dict(PRESETS[name])


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns flat values of a recipe with those of the preset that their key `for` names under them."""
    named = dict(values)
    name = named.pop(PRESET.name, None)
    return named if name is None else {**preset_values(name), **named}


def summary(name: str) -> str:
    """Returns what a preset sets, as `--set` takes it: `negatives=5 strategy=top`."""
    return " ".join(f"{key}={as_text(value)}" for key, value in PRESETS[name].items())


def _in_help(name: str) -> str:
    return f"{name}: {summary(name)}" + (" (no gain shown)" if name in NO_GAIN else "")


PRESET = Setting(
    "for",
    "Selection for what you train; named settings go over it. "
    f"{'; '.join(_in_help(name) for name in PRESETS)}.",
    choices=tuple(PRESETS),
)
"""The setting that names a preset."""
