"""Settings that each encoder of a run may have for itself, written `SCORER=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from miner.errors import UsageError, listed, near, shown
from miner.mining.config import TABLES, MiningConfig
from miner.models.endpoint import is_served
from miner.ranges import NO_VALUE
from miner.retrieval.config import DenseConfig
from miner.store.runs import StoredRun
from miner.store.scorers import DENSE


def encoder_settings(config: MiningConfig, names: Sequence[str]) -> list[DenseConfig]:
    """Returns the settings of each encoder; `names` are those of the encoders in the run, in order.

    A `dimension` without a name is for every dense encoder that is not served. Raises UsageError for a name
    that is not among them, and ModelError for a model whose kind has to be known and that cannot be used.
    """
    by_key = {key: values_of(key, getattr(config, key), names) for key in ENCODER_KEYS}
    made = [
        DenseConfig(
            model,
            by_key["encoder_revision"][number],
            config.dtype,
            by_key["query_prompt"][number],
            by_key["document_prompt"][number],
            config.index,
            by_key["dimension"][number],
            config.token_dtype,
        )
        for number, model in enumerate(config.encoder)
    ]
    if isinstance(config.dimension, int):
        from miner.retrieval.encoders import kind_of  # which loads slowly

        taking = [not is_served(one.encoder) and kind_of(one.encoder, one.revision) == DENSE for one in made]
        if any(taking):  # if none takes it, opening one says so
            made = [
                one if takes else replace(one, dimension=None)
                for one, takes in zip(made, taking, strict=True)
            ]
    return made


ENCODER_KEYS = tuple(name for name, setting in TABLES[""].items() if setting.by_encoder)
"""The settings that may have a value for each encoder."""


def settings_in_run(run: StoredRun, key: str) -> list[Any]:
    """Returns the value of one of `ENCODER_KEYS` for each encoder of a run, in order."""
    return values_of(key, run.config.get(key), [one.name for one in run.scorers if one.is_encoder])


def values_of(key: str, value: Any, names: Sequence[str]) -> list[Any]:
    """Returns the value of a setting for each encoder by name; None without one.

    A text is `SCORER=VALUE` if it begins with the name of an encoder and `=`, or if there are several
    encoders. Raises UsageError for another name, or one that occurs twice.
    """
    if isinstance(value, str) and len(names) == 1 and not value.startswith(f"{names[0]}="):
        return [value]
    if value is None or isinstance(value, int):
        return [value] * len(names)
    found: dict[str, Any] = {}
    for text in [value] if isinstance(value, str) else value:
        own = [name for name in names if text.startswith(f"{name}=")]
        if not own:
            name = text.partition("=")[0]
            raise UsageError(
                f"{key}: the run has no encoder '{shown(name)}'{near(name, names)}",
                f"write {key}=SCORER=VALUE; encoders: {listed(names)}",
            )
        name = max(own, key=len)
        if name in found:
            raise UsageError(f"{key} has several values for encoder '{shown(name)}'", "give one")
        found[name] = _parsed(key, text.removeprefix(f"{name}="))
    return [found.get(name) for name in names]


def _parsed(key: str, text: str) -> Any:
    setting = TABLES[""][key]
    if text == NO_VALUE:
        return None
    return text if setting.range is None else setting.range.require(key, setting.range.parse(text))
