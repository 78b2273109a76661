"""Notes about trained models, kept as files until a command can write them to the store.

A note lies in the folder of the model and, if the folder can be written, in `my.duckdb.notes` beside the
store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from miner.store.models import record_model, record_training

if TYPE_CHECKING:
    from miner.store.database import Database

NOTE = "store-note.json"
"""The file in the folder of a model."""
DAMAGED = ".damaged"
"""The ending that the name of an unreadable note gets."""


@dataclass(frozen=True)
class TrainedModel:
    """What a store records about a model that was trained on it."""

    fingerprint: str
    kind: str
    """`encoder` or `reranker`."""
    name: str
    details: Mapping[str, Any]
    """As in `record_model`."""
    base: str | None
    """As in `record_training`."""
    positives: pa.Table | None
    """The positives (query_id, doc_id) that its training used; None if they are recorded under another
    model."""


def record(store: Database, models: Sequence[TrainedModel]) -> None:
    """Records models and their training positives; recording them again changes nothing."""
    for model in models:
        if model.positives is not None:
            record_training(store, model.fingerprint, model.positives, model.base)
        record_model(store, model.fingerprint, model.kind, model.name, model.details)


def note_of(store_id: str, folder: Path, models: Sequence[TrainedModel]) -> str:
    """Returns the content of a note, which `take_in` reads."""
    rows = [
        {
            "fingerprint": model.fingerprint,
            "kind": model.kind,
            "name": model.name,
            "details": dict(model.details),
            "base": model.base,
            "positives": None if model.positives is None else model.positives.to_pydict(),
        }
        for model in models
    ]
    return json.dumps({"store": store_id, "model": str(folder.resolve()), "models": rows}) + "\n"


def notes_folder(store: Path) -> Path:
    """Returns the folder beside a store for notes that are not in the store yet."""
    return store.with_name(f"{store.name}.notes")


def take_in(store: Database) -> None:
    """Moves the notes that lie beside a store into the store.

    A damaged note is renamed, and `store.note` reports it.
    """
    folder = notes_folder(store.path)
    if not folder.is_dir():
        return
    for file in sorted(folder.glob("*.json")):
        _take_in(store, file)
    with suppress(OSError):  # it may contain notes for another store
        folder.rmdir()


def take_in_model(store: Database, folder: Path) -> None:
    """Moves the note in the folder of a model into the store, as `take_in` does."""
    if (file := folder / NOTE).is_file():
        _take_in(store, file)


def _take_in(store: Database, file: Path) -> None:
    try:
        note = json.loads(file.read_text("utf-8"))
        if note["store"] != store.id:
            return
        copy = Path(note["model"]) / NOTE
        models = [_model(row) for row in note["models"]]
    except OSError as error:
        store.note(f"cannot read {file} ({error.strerror}); the next command tries again")
        return
    except (ValueError, KeyError, TypeError):
        aside = file.with_name(file.name + DAMAGED)
        with suppress(OSError):
            file.replace(aside)
        store.note(
            f"{file} is damaged, so the store does not know what a model was trained on: renamed to "
            f"{aside.name}; start the same training again to record it"
        )
        return
    record(store, models)
    for written in (file, copy):
        with suppress(OSError):
            written.unlink()


def _model(row: Mapping[str, Any]) -> TrainedModel:
    model = TrainedModel(**{**row, "positives": _table(row["positives"])})
    names = (model.fingerprint, model.kind, model.name, model.base or "")
    if not all(isinstance(name, str) for name in names) or not isinstance(model.details, Mapping):
        raise TypeError("a field has the wrong type")
    return model


def _table(positives: Mapping[str, list[str]] | None) -> pa.Table | None:
    if positives is None:
        return None
    schema = pa.schema([("query_id", pa.string()), ("doc_id", pa.string())])
    table = pa.table({name: positives[name] for name in schema.names}, schema=schema)
    if any(column.null_count for column in table.columns):
        raise ValueError("an id is missing")
    return table
