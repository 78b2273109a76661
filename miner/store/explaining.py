"""What became of one query's candidates."""

from __future__ import annotations

import pyarrow as pa

from miner.store.database import Store
from miner.store.runs import Run


def verdicts(store: Store, run: Run, query_id: str) -> pa.Table:
    """Returns a query's candidates in one run, the selected first, with texts, ranks, scores, reasons."""
    return store.table(
        """SELECT v.slot, v.verdict::VARCHAR AS verdict, v.reason::VARCHAR AS reason, v.doc_id,
            v.bm25_rank, v.bm25_score, v.dense_rank, v.dense_score, v.rerank_score, d.text
        FROM verdicts v JOIN documents d USING (doc_id)
        WHERE v.run = ? AND v.query_id = ?
        ORDER BY v.slot NULLS LAST, v.verdict = 'dropped', v.fused_rank""",
        [run.name, query_id],
    )


def positives(store: Store, run: Run, query_id: str) -> pa.Table:
    """Returns a query's judged positives with their scores in one run's evidence."""
    return store.table(
        """SELECT p.doc_id, p.bm25_score, p.dense_score, s.score AS rerank_score, d.text
        FROM positives p JOIN documents d USING (doc_id)
        LEFT JOIN rerank_scores s ON s.reranker = ? AND s.query_id = p.query_id AND s.doc_id = p.doc_id
        WHERE p.evidence = ? AND p.query_id = ? ORDER BY p.doc_id""",
        [run.reranker, run.evidence, query_id],
    )
