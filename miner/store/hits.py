"""What retrievers returned."""

from __future__ import annotations

import pyarrow as pa

from miner.store.database import Store


def hits(store: Store, search: str, first: str, last: str) -> pa.Table:
    """Returns one search's hits for the query ids from `first` to `last`, by query_id, then rank.

    Columns query_id, doc_id, rank, score.
    """
    return store.table(
        """SELECT query_id, doc_id, rank, score FROM hits
        WHERE search = ? AND query_id BETWEEN ? AND ? ORDER BY query_id, rank""",
        [search, first, last],
    )
