"""The ledger: the stages and chunks of work that are finished, so that none is done twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from miner.store.database import Database
from miner.text import fingerprint

KEY = 12
"""Characters of a fingerprint in each row. DuckDB stores such a short text inline, and joins on it as fast as
on a number."""


@dataclass(frozen=True)
class Stage:
    """A step of a run: its name, everything that its result depends on, its number of chunks.

    `inputs` are content hashes, the canonical configuration, model fingerprints and the version of the
    stage's code. Two stages with equal inputs have equal results.
    """

    name: str
    inputs: Mapping[str, Any]
    chunks: int

    @property
    def fingerprint(self) -> str:
        """sha256 over the name and the inputs."""
        return fingerprint({"stage": self.name, **self.inputs})

    @property
    def key(self) -> str:
        """The first characters of the fingerprint, which the stage's rows carry."""
        return self.fingerprint[:KEY]


def begin_stage(store: Database, stage: Stage) -> set[int]:
    """Adds a new stage to the ledger; returns the chunks that are already done."""
    key = stage.fingerprint
    if not store.rows("SELECT 1 FROM stages WHERE fingerprint = ?", [key]):
        store.execute(
            "INSERT INTO stages VALUES (?, ?, ?, ?, now() AT TIME ZONE 'UTC', NULL)",
            [key, stage.name, json.dumps(stage.inputs, sort_keys=True), stage.chunks],
        )
    done = store.rows("SELECT chunk FROM chunks WHERE fingerprint = ?", [key])
    return {chunk for (chunk,) in done}


def commit_chunk(
    store: Database,
    stage: Stage,
    chunk: int,
    seconds: float,
    tables: Mapping[str, pa.Table],
    **constants: str,
) -> None:
    """Writes a chunk's rows and its ledger row in one transaction.

    `tables` maps a base table to its new rows; `constants` are as in `Database.insert`.
    """
    with store.transaction():
        for name, table in tables.items():
            store.insert(name, table, **constants)
        rows = sum(table.num_rows for table in tables.values())
        store.execute(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, now() AT TIME ZONE 'UTC')",
            [stage.fingerprint, chunk, rows, seconds],
        )


def finish_stage(store: Database, stage: Stage) -> None:
    """Marks the stage as finished; a second call changes nothing."""
    store.execute(
        "UPDATE stages SET finished = now() AT TIME ZONE 'UTC' WHERE fingerprint = ? AND finished IS NULL",
        [stage.fingerprint],
    )


def is_finished(store: Database, stage: Stage) -> bool:
    """Returns whether all chunks of a stage are done."""
    rows = store.rows(
        "SELECT 1 FROM stages WHERE fingerprint = ? AND finished IS NOT NULL", [stage.fingerprint]
    )
    return bool(rows)
