"""What every public function accepts: a store or its path, a run or its name, a configuration or keywords."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from miner.engine.progress import Progress
from miner.errors import UsageError, listed, near
from miner.mining.config import Rules, with_rules
from miner.mining.presets import preset_values
from miner.ranges import literal
from miner.store import runs
from miner.store.access import is_store
from miner.store.database import Database

StoreLike = Database | str | os.PathLike[str]
"""An open store, or the path of one, which is opened for the call."""
RunLike = runs.StoredRun | str | None
"""A run, its name, or None for the run that finished last."""
Reports = Progress | bool | None
"""Where work reports to. None: a bar in a notebook, nothing elsewhere; True: always; False: never."""
Config = TypeVar("Config")


@contextmanager
def opened(store: StoreLike, progress: Progress, *, read_only: bool = False) -> Iterator[Database]:
    """Yields an open store: the given one, or the one at the path until the end of the call.

    Raises UsageError if work that writes is given a store that was opened to read.
    """
    if not read_only:
        require_writable(store)
    if isinstance(store, Database) and not store.closed:
        before, store.note = store.note, progress.note
        try:
            yield store
        finally:
            store.note = before
        return
    with Database.open(path_of(store, read_only=read_only), read_only=read_only, note=progress.note) as found:
        yield found


def require_writable(store: StoreLike) -> None:
    """Raises UsageError for a store that was opened to read; a closed one counts too."""
    if isinstance(store, Database) and store.read_only:
        raise UsageError(f"{store.path} was opened to read", "open it without read_only=True")


def path_of(store: StoreLike, *, read_only: bool = False) -> Path:
    """Returns the path of a store; an open one closes its file until its next use.

    Raises UsageError if work that writes is given a store that was opened to read.
    """
    if not read_only:
        require_writable(store)
    if not isinstance(store, Database):
        if not isinstance(store, str | os.PathLike):
            raise UsageError(f"a store is a Store or its path, got {literal(store)}", "the store comes first")
        return Path(store)
    store.release()
    return store.path


def require_order(store: object, other: object, call: str) -> None:
    """Raises UsageError if `other` is a store and `store` is not; `call` has them in the right order."""
    if _is_store(other) and not _is_store(store):
        name = other.path if isinstance(other, Database) else other
        raise UsageError(f"{name} is a store, and the store comes first", f"call {call}")


def _is_store(value: object) -> bool:
    if isinstance(value, Database):
        return True
    return isinstance(value, str | os.PathLike) and is_store(Path(value))


def run_in(store: Database, run: RunLike) -> runs.StoredRun:
    """Returns the run that is given, named, or finished last; raises as `runs.find_run`."""
    return run if isinstance(run, runs.StoredRun) else runs.find_run(store, run)


def note_stale(store: Database, run: runs.StoredRun, progress: Progress) -> None:
    """Notes that the store has changed since the run was mined, if it has."""
    if stale := runs.staleness(store, run):
        progress.note(stale)


def configured(
    kind: type[Config], config: Config | None, settings: Mapping[str, Any], for_: str | None = None
) -> Config:
    """Returns `config` (None: the defaults) with other values for the settings.

    Settings have the names of the command line: those of the configuration's fields and of the fields of
    configurations in it, such as `relative_margin` for the rules of a MiningConfig. Raises UsageError for a
    configuration of another kind, a name that is unknown or that several parts have, and a wrong value.

    The values of the preset `for_` go over those of `config`, and the settings over both.
    """
    if config is None:
        config = kind()
    elif not isinstance(config, kind):
        raise UsageError(f"config must be a {kind.__name__}(…), got {literal(config)}")
    if for_ is not None:
        config = cast(Config, _with(config, preset_values(for_)))
    return cast(Config, _with(config, settings))


def divided(settings: Mapping[str, Any], kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings that are fields of a configuration, and the others."""
    names = {part.name for part in fields(kind)}
    own = {name: value for name, value in settings.items() if name in names}
    return own, {name: value for name, value in settings.items() if name not in names}


def _with(config: Any, settings: Mapping[str, Any]) -> Any:
    values = {
        name: value.name if isinstance(value, runs.StoredRun) else value for name, value in settings.items()
    }
    if isinstance(config, Rules) and set(values) <= _names(config):
        return with_rules(config, values)
    parts = _parts(config)
    own = {name: values.pop(name) for name in list(values) if name in _own_names(config)}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        inner.setdefault(_home(config, parts, name), {})[name] = value
    for part, rest in inner.items():
        own[part] = _with(own.get(part, parts[part]), rest)
    return replace(config, **own) if own else config


def _home(config: Any, parts: Mapping[str, Any], name: str) -> str:
    """Returns the part of a configuration that has a setting."""
    homes = [part for part, inside in parts.items() if name in _names(inside)]
    if not homes:
        known = _names(config) - set(parts)
        raise UsageError(
            f"unknown setting '{name}'{near(name, known)}", f"settings: {listed(sorted(known), most=60)}"
        )
    if len(homes) > 1:
        example = f"{homes[0]}={type(parts[homes[0]]).__name__}({name}=…)"
        raise UsageError(f"'{name}' is a setting of {' and '.join(homes)}", f"say which, such as {example}")
    return homes[0]


def _parts(config: Any) -> dict[str, Any]:
    """Returns the configurations in a configuration, by field."""
    values = {name: getattr(config, name) for name in _own_names(config)}
    return {
        name: value for name, value in values.items() if is_dataclass(value) and not isinstance(value, type)
    }


def _own_names(config: Any) -> list[str]:
    return [part.name for part in fields(config) if part.init]


def _names(config: Any) -> set[str]:
    """Returns every setting of a configuration, and of those in it."""
    return {*_own_names(config)}.union(*map(_names, _parts(config).values()))
