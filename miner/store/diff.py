"""Two runs side by side: which negatives and positives came and went, and what became of them."""

from __future__ import annotations

import pyarrow as pa

from miner.store.audits import OUTCOMES
from miner.store.database import Store
from miner.store.runs import Run

_GONE = "(no longer in the store)"
_MOVED = f"""SELECT query_id, doc_id, coalesce(a.outcome, 'no candidate') AS before,
        coalesce(b.outcome, 'no candidate') AS after
    FROM ({OUTCOMES} WHERE run = $before) a
    FULL JOIN ({OUTCOMES} WHERE run = $after) b USING (query_id, doc_id)
    WHERE a.outcome = 'negative' OR b.outcome = 'negative'"""


def moved_negatives(store: Store, before: Run, after: Run) -> list[tuple[str, str, int]]:
    """Returns, for the negatives of either run, what they were before and after, and how many, most first."""
    return store.rows(
        f"SELECT before, after, count(*) FROM ({_MOVED}) GROUP BY ALL ORDER BY count(*) DESC, before, after",
        {"before": before.name, "after": after.name},
    )


def example(store: Store, before: Run, after: Run, was: str, became: str) -> tuple[str, str, str, str]:
    """Returns one pair that moved so: query_id, query, doc_id, document."""
    (row,) = store.rows(
        f"""SELECT query_id, coalesce(q.text, '{_GONE}'), doc_id, coalesce(d.text, '{_GONE}')
        FROM ({_MOVED}) m LEFT JOIN queries q USING (query_id) LEFT JOIN documents d USING (doc_id)
        WHERE m.before = $was AND m.after = $became ORDER BY md5(query_id || doc_id) LIMIT 1""",
        {"before": before.name, "after": after.name, "was": was, "became": became},
    )
    return row


def positive_changes(store: Store, before: Run, after: Run) -> dict[str, int]:
    """Returns how many positives both runs have, and only one of them: `both`, `gone`, `new`."""
    rows = store.rows(
        """SELECT CASE WHEN b.doc_id IS NULL THEN 'gone' WHEN a.doc_id IS NULL THEN 'new' ELSE 'both' END,
            count(*)
        FROM (SELECT query_id, doc_id FROM positives WHERE evidence = $before) a
        FULL JOIN (SELECT query_id, doc_id FROM positives WHERE evidence = $after) b USING (query_id, doc_id)
        GROUP BY ALL""",
        {"before": before.evidence, "after": after.evidence},
    )
    return {"both": 0, "gone": 0, "new": 0} | dict(rows)


def triplet_changes(store: Store, before: Run, after: Run) -> pa.Table:
    """Returns how many triplets both runs have, and only one of them: columns both, gone, new."""
    return store.table(
        """WITH a AS (SELECT query_id, positive_id, negative_id FROM triplets WHERE run_id = $before),
        b AS (SELECT query_id, positive_id, negative_id FROM triplets WHERE run_id = $after)
        SELECT (SELECT count(*) FROM (FROM a INTERSECT FROM b)) AS "both",
            (SELECT count(*) FROM (FROM a EXCEPT FROM b)) AS gone,
            (SELECT count(*) FROM (FROM b EXCEPT FROM a)) AS new""",
        {"before": before.run_id, "after": after.run_id},
    )
