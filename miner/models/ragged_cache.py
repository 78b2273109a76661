"""The cache of rows of any length: the weights of a sparse vector, or one vector per token of a text.

The guarantees and the locks are those of `RowCache`. An entry contains where its row begins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from miner.models.row_cache import Entries, Flags, Items, Keys, RowCache, RowNumbers


class Ragged(NamedTuple):
    """Rows of any length, one after the other."""

    items: Items
    """Shape (items of all rows, dimension)."""
    sizes: RowNumbers
    """The number of items of each row; 0 for a text without a vector."""


class RaggedCache(RowCache[Ragged]):
    """The cached rows of the encoder with the fingerprint `model`, in a folder below `root`."""

    _ITEMS = "rows.items"
    _ENTRY = np.dtype(
        [
            ("key", "<u8", 2),
            ("first", "<u8"),  # the first item of the row
            ("size", "<u4"),  # the number of items
            ("vector", "<u4"),  # CRC-32 of the row
            ("dimension", "<u4"),  # numbers per item; 0: the row is dead
            ("truncated", "<u4"),  # 1: the text was longer than the model reads
            ("check", "<u4"),  # CRC-32 of the fields above
        ]
    )

    def append(self, keys: Keys, rows: Ragged, truncated: Flags | None = None) -> Keys:
        """Adds rows, except those whose keys another process has added meanwhile; returns the keys of these.

        Raises MinerError if they cannot be written; the cache is then unchanged.
        """
        items = np.ascontiguousarray(rows.items, dtype=self._dtype)
        return self._append(keys, items, rows.sizes, truncated)

    def spans(self, rows: RowNumbers) -> tuple[RowNumbers, RowNumbers]:
        """Returns the first item of each row, and its number of items."""
        return self._spans(rows)

    def _spans(self, rows: RowNumbers) -> tuple[RowNumbers, RowNumbers]:
        entries = self._index[0][rows]
        return entries["first"].astype(np.int64), entries["size"].astype(np.int64)

    def _ends(self, entries: Entries) -> RowNumbers:
        ends: RowNumbers = entries["first"].astype(np.int64) + entries["size"]
        return ends

    def _begin(self, used: int) -> tuple[int, int]:
        return used, 0

    def _located(self, entries: Entries, sizes: RowNumbers, first: int) -> None:
        # A row without items may come after the last whole item of the file.
        entries["first"] = np.where(sizes > 0, first + np.cumsum(sizes) - sizes, 0)
        entries["size"] = sizes
