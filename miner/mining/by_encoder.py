"""Settings that each encoder of a run may have for itself, written `SCORER=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, listed, near, nearest, shown
from miner.mining.config import TABLES, MiningConfig
from miner.models.endpoint import is_served
from miner.models.names import BUNDLED, file_name, scorer_name
from miner.ranges import NO_VALUE
from miner.retrieval.config import DenseConfig
from miner.store.runs import StoredRun
from miner.store.scorers import BM25, DENSE


def encoder_settings(
    config: MiningConfig, names: Sequence[str], progress: Progress = SILENT
) -> list[DenseConfig]:
    """Returns the settings of each encoder; `names` are those of the encoders in the run, in order.

    A `dimension` without a name is for every dense encoder that is not served. Raises UsageError for a name
    that is not among them, and ModelError for a model whose kind has to be known and that cannot be used.
    """
    for key in ENCODER_KEYS:
        _require_meant(key, config, names, progress)
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


def _require_meant(key: str, config: MiningConfig, names: Sequence[str], progress: Progress) -> None:
    """Raises UsageError if the only encoder's text for a setting begins with a wrong name and `=`.

    What comes before the `=` is a name if it has no blanks and resembles that of a scorer or of a model, and
    always in a revision. Reports a prompt that begins with another word and `=`, which may be one.
    """
    value = getattr(config, key)
    if not isinstance(value, str) or len(names) != 1 or value.startswith(f"{names[0]}="):
        return
    before, sign, _ = value.partition("=")
    name = before.strip()
    if not sign or not name or len(name.split()) > 1:
        return
    others = [*map(file_name, (*config.candidates, *config.vectors)), *map(scorer_name, config.reranker)]
    resembles = nearest(name, [*names, *others, BM25, BUNDLED]) is not None or "/" in name
    if resembles or key == "encoder_revision":
        raise _no_encoder(key, name, names, f", or {key}={shown(names[0])}={shown(value)} for this very text")
    progress.note(
        f"{key}: '{shown(value)}' goes before every text, as '{shown(name)}' names no encoder; to name one, "
        f"write {key}=SCORER=VALUE; encoders: {listed(names)}"
    )


def _no_encoder(key: str, name: str, names: Sequence[str], other: str = "") -> UsageError:
    return UsageError(
        f"{key}: the run has no encoder '{shown(name)}'{near(name, names)}",
        f"write {key}=SCORER=VALUE{other}; encoders: {listed(names)}",
    )


def settings_in_run(run: StoredRun, key: str) -> list[Any]:
    """Returns the value of one of `ENCODER_KEYS` for each encoder of a run, in order."""
    return values_of(key, run.config.get(key), [one.name for one in run.scorers if one.is_encoder])


def values_of(key: str, value: Any, names: Sequence[str]) -> list[Any]:
    """Returns the value of a setting for each encoder by name; None without one.

    A text is `SCORER=VALUE` if it begins with the name of an encoder and `=`, or if there are several
    encoders; else it is a value for the only one. Raises UsageError for another name, or one that occurs
    twice.
    """
    if isinstance(value, str) and len(names) == 1 and not value.startswith(f"{names[0]}="):
        return [value]
    if value is None or isinstance(value, int):
        return [value] * len(names)
    found: dict[str, Any] = {}
    for text in [value] if isinstance(value, str) else value:
        own = [name for name in names if text.startswith(f"{name}=")]
        if not own:
            raise _no_encoder(key, text.partition("=")[0], names)
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
