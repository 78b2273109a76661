"""The triplets of a run, as a table that other libraries read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from miner.errors import counted, snippet
from miner.reporting.readable import escaped, html_table

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

    from miner.door.store import Run

_ROWS_SHOWN = 5


class Triplets:
    """The triplets of a run as an Arrow table.

    It has every method of pyarrow.Table (`num_rows`, `to_pandas`, `to_pylist`, columns by name, …), and other
    libraries read it as Arrow data. `table` is the pyarrow.Table itself.
    """

    def __init__(self, table: pa.Table, run: Run) -> None:
        self.table = table
        self.run = run

    def to_pandas(self) -> DataFrame:
        """Returns the triplets as a pandas table."""
        frame: DataFrame = self.table.to_pandas()
        return frame

    def to_dataset(
        self, format: str = "triplet", *, scores: bool = False, negatives_per_row: int | None = None
    ) -> Dataset:
        """Returns a datasets.Dataset to train on: the texts as anchor, positive, negative, and no ids.

        See `Run.to_dataset`.
        """
        return self.run.to_dataset(format, scores=scores, negatives_per_row=negatives_per_row)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __getattr__(self, name: str) -> Any:
        if name == "table" or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.table, name)

    def __getitem__(self, column: str | int) -> pa.ChunkedArray:
        return self.table[column]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        columns = ", ".join(self.table.column_names)
        return f"{counted(len(self), 'triplet')} of run '{self.run.name}': {columns}"

    def _repr_html_(self) -> str:
        names = self.table.column_names
        rows = [[_cell(row[name]) for name in names] for row in self.table.slice(0, _ROWS_SHOWN).to_pylist()]
        more = f"<br>… {len(self) - len(rows):,} more" if len(self) > len(rows) else ""
        return f"<b>{escaped(repr(self))}</b>{html_table(names, rows, left=range(len(names)))}{more}"


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else snippet(str(value))
