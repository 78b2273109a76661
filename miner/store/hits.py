"""The hits of searches. Each is stored once: by itself until some evidence contains it, then only there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import flat, number_within, owners
from miner.store.database import Database

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def hits_of(store: Database, search: str, first: int, stop: int) -> tuple[Ints, Ints, Ints, Floats]:
    """Returns the hits of a search for the queries numbered from `first` to before `stop`.

    Arrays of one length, ordered by query, then rank: query, document, rank from 1, score.
    """
    holder = store.rows("SELECT evidence, scorer FROM searches WHERE search = ? LIMIT 1", [search])
    if not holder:
        table = store.table(
            """SELECT query_no, doc_nos, scores FROM hits
            WHERE search = ? AND query_no >= ? AND query_no < ? ORDER BY query_no""",
            [search, first, stop],
        )
        query = owners(table, "doc_nos")
        return query, _integers(table, "doc_nos"), number_within(query), _numbers(table)
    table = store.table(
        """SELECT query_no, p.doc_nos, c.ranks, c.scores
        FROM scored c JOIN pools p USING (evidence, query_no)
        WHERE evidence = ? AND scorer = ? AND query_no >= ? AND query_no < ? ORDER BY query_no""",
        [*holder[0], first, stop],
    )
    rank = flat(table["ranks"]).fill_null(0).to_numpy().astype(np.int64)
    query = owners(table, "doc_nos")
    order = np.lexsort((rank, query))
    order = order[rank[order] > 0]
    return query[order], _integers(table, "doc_nos")[order], rank[order], _numbers(table)[order]


def _integers(table: pa.Table, name: str) -> Ints:
    return np.asarray(flat(table[name]).to_numpy(), dtype=np.int64)


def _numbers(table: pa.Table) -> Floats:
    return np.asarray(flat(table["scores"]).fill_null(np.nan).to_numpy(), dtype=np.float64)


def hold_hits(store: Database, evidence: str, searches: Mapping[str, int]) -> None:
    """Removes the hits of searches (to the number of each scorer), which a finished evidence contains."""
    known = {search for (search,) in store.rows("SELECT search FROM searches WHERE evidence = ?", [evidence])}
    with store.transaction():
        for search, scorer in searches.items():
            if search not in known:
                store.execute("INSERT INTO searches VALUES (?, ?, ?)", [search, evidence, scorer])
                store.execute("DELETE FROM hits WHERE search = ?", [search])


def release_hits(store: Database, evidence: str) -> None:
    """Stores the hits that only this evidence contains by themselves, before the evidence is removed."""
    alone = store.rows(
        """SELECT search, scorer FROM searches WHERE evidence = $evidence
        AND search NOT IN (SELECT search FROM searches WHERE evidence <> $evidence)""",
        {"evidence": evidence},
    )
    for search, scorer in alone:
        store.execute(
            """INSERT INTO hits
            SELECT ?, query_no, list(doc_no ORDER BY rank), list(score ORDER BY rank)
            FROM (SELECT query_no, unnest(p.doc_nos) AS doc_no, unnest(c.ranks) AS rank,
                    unnest(c.scores) AS score
                FROM scored c JOIN pools p USING (evidence, query_no) WHERE evidence = ? AND scorer = ?)
            WHERE rank IS NOT NULL GROUP BY query_no""",
            [search, evidence, scorer],
        )
