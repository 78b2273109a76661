"""The store's schema: base tables, and the views that people query."""

from __future__ import annotations

from miner.schema import CANDIDATES_PER_QUERY, KEPT, SUSPECTED, Reason, Verdict

FORMAT = 7
"""The version of the schema: a new number if earlier versions of miner cannot read the store."""

SILVER = "silver"
"""The source of judgments that `miner silver` makes."""
RELABELLED = "relabelled"
"""The source of judgments that `miner relabel` makes."""
GOLD = f"(SELECT * FROM judgments WHERE source <> '{SILVER}')"
"""SQL for all judgments but the silver ones."""


def _enum(name: str, values: type[Reason] | type[Verdict]) -> str:
    return f"CREATE TYPE {name} AS ENUM ({', '.join(repr(str(v)) for v in values)})"


TABLES = (
    _enum("verdict", Verdict),
    _enum("reason", Reason),
    "CREATE TABLE meta (key VARCHAR NOT NULL, value VARCHAR NOT NULL)",
    """CREATE TABLE documents (
        doc_id VARCHAR NOT NULL, title VARCHAR NOT NULL, text VARCHAR NOT NULL,
        text_key BIGINT NOT NULL, passage_key BIGINT, label VARCHAR)""",
    """CREATE TABLE queries (
        query_id VARCHAR NOT NULL, text VARCHAR NOT NULL, text_key BIGINT NOT NULL,
        label VARCHAR)""",
    """CREATE TABLE judgments (
        query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, relevance DOUBLE NOT NULL,
        split VARCHAR NOT NULL, source VARCHAR NOT NULL)""",
    """CREATE TABLE rejected (
        origin VARCHAR NOT NULL, line BIGINT, reason VARCHAR NOT NULL, detail VARCHAR NOT NULL)""",
    """CREATE TABLE stages (
        fingerprint VARCHAR NOT NULL, stage VARCHAR NOT NULL, inputs VARCHAR NOT NULL,
        chunks INTEGER NOT NULL, started TIMESTAMP NOT NULL, finished TIMESTAMP)""",
    """CREATE TABLE chunks (
        fingerprint VARCHAR NOT NULL, chunk INTEGER NOT NULL, rows BIGINT NOT NULL,
        seconds DOUBLE NOT NULL, finished TIMESTAMP NOT NULL)""",
    """CREATE TABLE hits (
        search VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL,
        rank INTEGER NOT NULL, score DOUBLE NOT NULL)""",
    """CREATE TABLE candidates (
        evidence VARCHAR NOT NULL, candidate BIGINT NOT NULL,
        query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL,
        bm25_rank INTEGER, bm25_score DOUBLE, dense_rank INTEGER, dense_score DOUBLE,
        fused_rank INTEGER NOT NULL, exclusion reason, judged_negative BOOLEAN)""",
    """CREATE TABLE positives (
        evidence VARCHAR NOT NULL, query_no INTEGER NOT NULL, query_id VARCHAR NOT NULL,
        doc_id VARCHAR NOT NULL, bm25_score DOUBLE, dense_score DOUBLE)""",
    """CREATE TABLE rerank_scores (
        reranker VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL,
        score DOUBLE NOT NULL)""",
    """CREATE TABLE models (
        fingerprint VARCHAR NOT NULL, kind VARCHAR NOT NULL, name VARCHAR NOT NULL,
        details VARCHAR NOT NULL)""",
    """CREATE TABLE training_positives (
        model VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL)""",
    """CREATE TABLE runs (
        run_id VARCHAR NOT NULL, name VARCHAR NOT NULL, split VARCHAR NOT NULL,
        config VARCHAR NOT NULL, inputs VARCHAR NOT NULL, versions VARCHAR NOT NULL,
        seed BIGINT NOT NULL, evidence VARCHAR NOT NULL, encoder VARCHAR, reranker VARCHAR,
        negatives INTEGER NOT NULL, status VARCHAR NOT NULL,
        started TIMESTAMP NOT NULL, finished TIMESTAMP)""",
    """CREATE TABLE decisions (
        run_id VARCHAR NOT NULL, query_no INTEGER NOT NULL, codes SMALLINT[] NOT NULL)""",
    """CREATE TABLE triplets (
        run_id VARCHAR NOT NULL, query_id VARCHAR NOT NULL, positive_id VARCHAR NOT NULL,
        negative_id VARCHAR NOT NULL, positive_score DOUBLE NOT NULL,
        negative_score DOUBLE NOT NULL, rank INTEGER NOT NULL)""",
    """CREATE TABLE audits (
        run_id VARCHAR NOT NULL, settings VARCHAR NOT NULL, result VARCHAR NOT NULL,
        finished TIMESTAMP NOT NULL)""",
    """CREATE TABLE samples (
        sample VARCHAR NOT NULL, run_id VARCHAR NOT NULL, seed BIGINT NOT NULL,
        requested INTEGER NOT NULL, strata VARCHAR NOT NULL, drawn TIMESTAMP NOT NULL, result VARCHAR)""",
    """CREATE TABLE sampled (
        sample VARCHAR NOT NULL, run_id VARCHAR NOT NULL, position INTEGER NOT NULL,
        query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, stratum INTEGER NOT NULL,
        predicted DOUBLE NOT NULL, weight DOUBLE NOT NULL)""",
    """CREATE TABLE labels (
        query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, relevance DOUBLE NOT NULL,
        source VARCHAR NOT NULL, origin VARCHAR NOT NULL, labelled TIMESTAMP NOT NULL)""",
    """CREATE TABLE duplicates (
        role VARCHAR NOT NULL, id VARCHAR NOT NULL, cluster VARCHAR NOT NULL,
        how VARCHAR NOT NULL, similarity DOUBLE NOT NULL)""",
)

VIEWS = (
    f"""CREATE VIEW decided AS
    SELECT run_id, query_no::BIGINT * {CANDIDATES_PER_QUERY} + fused_rank AS candidate,
        CASE WHEN code <= {KEPT} THEN 'kept' WHEN code >= {SUSPECTED} THEN 'suspected'
            ELSE 'dropped' END::verdict AS verdict,
        CASE WHEN code > {KEPT} THEN enum_range(NULL::reason)[code % {SUSPECTED} + 1] END::reason AS reason,
        CASE WHEN code < {KEPT} THEN ({KEPT} - code)::SMALLINT END AS slot
    FROM (SELECT run_id, query_no, generate_subscripts(codes, 1) AS fused_rank, unnest(codes) AS code
        FROM decisions)""",
    """CREATE VIEW verdicts AS
    SELECT r.name AS run, c.query_id, c.doc_id,
        c.bm25_rank, c.bm25_score, c.dense_rank, c.dense_score, c.fused_rank,
        s.score AS rerank_score, coalesce(c.judged_negative, false) AS judged_negative,
        d.verdict, d.reason, d.slot
    FROM runs r
    JOIN decided d ON d.run_id = r.run_id
    JOIN candidates c ON c.evidence = r.evidence AND c.candidate = d.candidate
    LEFT JOIN rerank_scores s
        ON s.reranker = r.reranker AND s.query_id = c.query_id AND s.doc_id = c.doc_id""",
    """CREATE VIEW kept AS SELECT * EXCLUDE (reason) FROM verdicts WHERE verdict = 'kept'""",
    """CREATE VIEW dropped AS SELECT * EXCLUDE (slot) FROM verdicts WHERE verdict <> 'kept'""",
    """CREATE VIEW reasons AS
    SELECT r.name AS run, d.verdict, d.reason, count(*) AS candidates
    FROM runs r JOIN decided d USING (run_id)
    GROUP BY ALL ORDER BY run, candidates DESC""",
    """CREATE VIEW document_texts AS
    SELECT doc_id, CASE title WHEN '' THEN text ELSE title || ' ' || text END AS text, text_key, label,
        coalesce(passage_key, text_key) AS passage_key,
        CASE WHEN passage_key IS NULL THEN 0 ELSE length(title) + 1 END::INTEGER AS passage_start
    FROM documents""",
    """CREATE VIEW triplet_texts AS
    SELECT r.name AS run, t.query_id, t.positive_id, t.negative_id,
        q.text AS query, p.text AS positive, n.text AS negative,
        t.positive_score, t.negative_score, t.rank
    FROM triplets t
    JOIN runs r ON r.run_id = t.run_id
    JOIN queries q ON q.query_id = t.query_id
    JOIN document_texts p ON p.doc_id = t.positive_id
    JOIN document_texts n ON n.doc_id = t.negative_id""",
    """CREATE VIEW shortfalls AS
    WITH per_query AS (
        SELECT r.name AS run, r.negatives AS requested, p.query_id
        FROM runs r JOIN positives p ON p.evidence = r.evidence
        WHERE r.status = 'done' GROUP BY ALL),
    outcomes AS (
        SELECT run, query_id, count(slot) AS selected, count(*) AS candidates,
            mode(reason ORDER BY reason DESC) FILTER (verdict <> 'kept') AS commonest_reason
        FROM verdicts GROUP BY ALL)
    SELECT run, query_id, requested, coalesce(selected, 0) AS selected,
        coalesce(candidates, 0) AS candidates, commonest_reason
    FROM per_query LEFT JOIN outcomes USING (run, query_id)
    WHERE coalesce(selected, 0) < requested""",
    """CREATE VIEW weak_positives AS
    WITH negatives AS (
        SELECT run, query_id, count(*) AS negatives,
            min(bm25_score) FILTER (isfinite(bm25_score)) AS bm25,
            min(dense_score) FILTER (isfinite(dense_score)) AS dense,
            min(rerank_score) FILTER (isfinite(rerank_score)) AS rerank
        FROM verdicts WHERE slot IS NOT NULL GROUP BY ALL)
    SELECT n.run, p.query_id, p.doc_id, n.negatives, p.bm25_score, n.bm25 AS lowest_negative_bm25,
        p.dense_score, n.dense AS lowest_negative_dense,
        s.score AS rerank_score, n.rerank AS lowest_negative_rerank
    FROM runs r JOIN positives p ON p.evidence = r.evidence
    JOIN negatives n ON n.run = r.name AND n.query_id = p.query_id
    LEFT JOIN rerank_scores s
        ON s.reranker = r.reranker AND s.query_id = p.query_id AND s.doc_id = p.doc_id
    WHERE (p.bm25_score < n.bm25 OR NOT coalesce(isfinite(p.bm25_score), false) OR n.bm25 IS NULL)
        AND (p.dense_score < n.dense OR NOT coalesce(isfinite(p.dense_score), false) OR n.dense IS NULL)
        AND (s.score < n.rerank OR NOT coalesce(isfinite(s.score), false) OR n.rerank IS NULL)""",
)
