"""Records in a store what a model was trained on; a training is not lost if that fails."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from miner.engine.files import write_whole
from miner.engine.progress import Progress
from miner.errors import MinerError, StoreError
from miner.store.database import Database
from miner.store.pending import NOTE, TrainedModel, note_of, notes_folder, record

WAIT = 30.0
"""Seconds that a finished training waits for another process to finish writing to the store."""


def note_training(
    path: Path, store_id: str, out: Path, models: Sequence[TrainedModel], progress: Progress
) -> None:
    """Records in the store at `path` the positives that the models in `out` were trained on.

    If the store cannot be written to, or is not the store of `store_id` any more, the record is kept in `out`
    and beside the store. The next command that writes to the store takes it in, and `progress` gets a note.
    """
    try:
        with Database.open(path, wait=WAIT, note=progress.note) as store:
            if store.id != store_id:
                raise StoreError(f"{path} is another store than at the start")
            record(store, models)
    except BaseException as error:
        _keep(path, store_id, out, models)
        if not isinstance(error, StoreError):
            raise
        progress.note(
            f"{error.message}; the record of what {out} was trained on is kept in {out / NOTE}, "
            "and the next command that writes to the store takes it in"
        )
    else:
        with suppress(OSError):
            (out / NOTE).unlink(missing_ok=True)


def _keep(path: Path, store_id: str, out: Path, models: Sequence[TrainedModel]) -> None:
    note = note_of(store_id, out, models)
    write_whole(out / NOTE, note)
    if path.is_file():
        with suppress(MinerError):  # that folder may be read-only; the model has the record
            write_whole(notes_folder(path) / f"{models[0].fingerprint[:24]}.json", note)
