"""Presets: what to select for what is trained. `--for NAME` sets it; any other setting replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miner.errors import UsageError, near

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


def preset_values(name: str) -> dict[str, Any]:
    """Returns the settings of a preset, by their flat names; UsageError for an unknown one.

    Values that a recipe or a command line names go over them: `{**preset_values(name), **named}`. No preset
    names a rule, so that the default rule and `Naming a rule replaces the default rule` stay as they are.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset '{name}'{near(name, PRESETS)}", f"choose one of: {', '.join(PRESETS)}")
    return dict(PRESETS[name])
