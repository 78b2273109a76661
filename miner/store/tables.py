"""The store's schema: base tables, and the views that people query."""

from __future__ import annotations

from miner.schema import CANDIDATES_PER_QUERY, KEPT, SUSPECTED, Reason, Verdict
from miner.store.codes import DECISION_CODES

FORMAT = 12
"""The version of the schema: a new number if earlier versions of miner cannot read the store."""

SILVER = "silver"
"""The source of judgments that `miner silver` makes."""
RELABELLED = "relabelled"
"""The source of judgments that `miner relabel` makes from scores."""
REVIEWED = "reviewed"
"""The source of judgments that `miner relabel --by people` makes."""
RERANKER = "reranker"
"""The kind of a scorer that scores pairs which others found; `rerank_scores` has its scores for all runs."""
JUDGE = "judge"
"""The kind of a scorer that is a language model, which grades some of the pairs: see `judge_answers`. And the
source of judgments that `miner relabel --by judge` makes."""
GENERATED = "generated"
"""The source of judgments of queries that `miner generate` makes from documents."""
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
    """CREATE TABLE parents (
        doc_id VARCHAR NOT NULL, parent VARCHAR NOT NULL, number INTEGER NOT NULL, start BIGINT NOT NULL)""",
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
        search VARCHAR NOT NULL, query_no INTEGER NOT NULL,
        doc_nos INTEGER[] NOT NULL, scores DOUBLE[] NOT NULL)""",
    """CREATE TABLE pools (
        evidence VARCHAR NOT NULL, query_no INTEGER NOT NULL, query_id VARCHAR NOT NULL,
        doc_nos INTEGER[] NOT NULL, exclusions TINYINT[] NOT NULL, judged_negative BOOLEAN[] NOT NULL,
        best_ranks INTEGER[] NOT NULL, best_scorers TINYINT[] NOT NULL)""",
    """CREATE TABLE pool_documents (
        evidence VARCHAR NOT NULL, doc_no INTEGER NOT NULL, doc_id VARCHAR NOT NULL)""",
    """CREATE TABLE positives (
        evidence VARCHAR NOT NULL, query_no INTEGER NOT NULL, query_id VARCHAR NOT NULL,
        doc_id VARCHAR NOT NULL)""",
    """CREATE TABLE scored (
        evidence VARCHAR NOT NULL, query_no INTEGER NOT NULL, scorer SMALLINT NOT NULL,
        ranks INTEGER[] NOT NULL, scores DOUBLE[] NOT NULL, positives DOUBLE[] NOT NULL)""",
    """CREATE TABLE searches (
        search VARCHAR NOT NULL, evidence VARCHAR NOT NULL, scorer SMALLINT NOT NULL)""",
    """CREATE TABLE scorers (
        run_id VARCHAR NOT NULL, number SMALLINT NOT NULL, scorer VARCHAR NOT NULL,
        kind VARCHAR NOT NULL, model VARCHAR, stage VARCHAR)""",
    """CREATE TABLE rerank_scores (
        reranker VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL,
        score DOUBLE NOT NULL)""",
    """CREATE TABLE judges (
        judge VARCHAR NOT NULL, name VARCHAR NOT NULL, members VARCHAR[] NOT NULL,
        settings VARCHAR NOT NULL, checked VARCHAR)""",
    """CREATE TABLE judge_answers (
        judge VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_ids VARCHAR[] NOT NULL,
        pairs UBIGINT[] NOT NULL, grades TINYINT[], answer VARCHAR, failure VARCHAR,
        tokens_in BIGINT, tokens_out BIGINT, answered TIMESTAMP, request VARCHAR)""",
    """CREATE TABLE generators (
        generator VARCHAR NOT NULL, name VARCHAR NOT NULL, settings VARCHAR NOT NULL)""",
    """CREATE TABLE generated_answers (
        generator VARCHAR NOT NULL, document UBIGINT NOT NULL, doc_id VARCHAR NOT NULL,
        queries VARCHAR[], answer VARCHAR, failure VARCHAR, tokens_in BIGINT, tokens_out BIGINT,
        answered TIMESTAMP NOT NULL)""",
    """CREATE TABLE generated_queries (
        query_id VARCHAR NOT NULL, text VARCHAR NOT NULL, doc_id VARCHAR NOT NULL,
        generator VARCHAR NOT NULL, outcome VARCHAR NOT NULL, rank INTEGER)""",
    """CREATE TABLE models (
        fingerprint VARCHAR NOT NULL, kind VARCHAR NOT NULL, name VARCHAR NOT NULL,
        details VARCHAR NOT NULL)""",
    """CREATE TABLE training_positives (
        model VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL)""",
    """CREATE TABLE runs (
        run_id VARCHAR NOT NULL, name VARCHAR NOT NULL, split VARCHAR NOT NULL,
        config VARCHAR NOT NULL, inputs VARCHAR NOT NULL, versions VARCHAR NOT NULL,
        seed BIGINT NOT NULL, evidence VARCHAR NOT NULL, reranking VARCHAR, decider SMALLINT NOT NULL,
        negatives INTEGER NOT NULL, status VARCHAR NOT NULL,
        started TIMESTAMP NOT NULL, finished TIMESTAMP)""",
    """CREATE TABLE decisions (
        run_id VARCHAR NOT NULL, query_no INTEGER NOT NULL, codes VARCHAR NOT NULL)""",
    """CREATE TABLE selected (
        run_id VARCHAR NOT NULL, query_id VARCHAR NOT NULL, positive_id VARCHAR NOT NULL,
        positive_score DOUBLE NOT NULL, doc_nos INTEGER[] NOT NULL, scores DOUBLE[] NOT NULL)""",
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
    """CREATE TABLE reviews (
        number BIGINT NOT NULL, run_id VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL,
        answer VARCHAR NOT NULL, reviewer VARCHAR NOT NULL, stratum VARCHAR NOT NULL,
        seconds DOUBLE NOT NULL, answered TIMESTAMP NOT NULL)""",
    """CREATE TABLE duplicates (
        role VARCHAR NOT NULL, id VARCHAR NOT NULL, cluster VARCHAR NOT NULL,
        how VARCHAR NOT NULL, similarity DOUBLE NOT NULL)""",
)

_SCORED_BY = f"coalesce(s.stage, CASE s.kind WHEN '{RERANKER}' THEN r.reranking ELSE r.evidence END)"
"""The key of a scorer's rows in `scored`, in a view over runs r and scorers s."""

VIEWS = (
    DECISION_CODES,
    f"""CREATE VIEW decided AS
    SELECT run_id, query_no::BIGINT * {CANDIDATES_PER_QUERY} + fused_rank AS candidate,
        CASE WHEN code <= {KEPT} THEN 'kept' WHEN code >= {SUSPECTED} THEN 'suspected'
            ELSE 'dropped' END::verdict AS verdict,
        CASE WHEN code > {KEPT} THEN enum_range(NULL::reason)[code % {SUSPECTED} + 1] END::reason AS reason,
        CASE WHEN code < {KEPT} THEN ({KEPT} - code)::SMALLINT END AS slot
    FROM (SELECT run_id, query_no, generate_subscripts(codes, 1) AS fused_rank, unnest(codes) AS code
        FROM decision_codes)""",
    f"""CREATE VIEW candidates AS
    SELECT evidence, query_no::BIGINT * {CANDIDATES_PER_QUERY} + fused_rank AS candidate, query_no,
        query_id, doc_id, fused_rank, best_rank,
        CASE WHEN code >= 0 THEN enum_range(NULL::reason)[code + 1] END::reason AS exclusion, judged_negative
    FROM (SELECT evidence, query_no, query_id, unnest(doc_nos) AS doc_no,
            generate_subscripts(doc_nos, 1) AS fused_rank, unnest(best_ranks) AS best_rank,
            unnest(exclusions) AS code, unnest(judged_negative) AS judged_negative
        FROM pools)
    JOIN pool_documents USING (evidence, doc_no)""",
    f"""CREATE VIEW verdicts AS
    SELECT u.run, u.query_id, t.doc_id, u.fused_rank, u.scorer, u.score, u.judged_negative,
        CASE WHEN code <= {KEPT} THEN 'kept' WHEN code >= {SUSPECTED} THEN 'suspected'
            ELSE 'dropped' END::verdict AS verdict,
        CASE WHEN code > {KEPT} THEN enum_range(NULL::reason)[code % {SUSPECTED} + 1] END::reason AS reason,
        CASE WHEN code < {KEPT} THEN ({KEPT} - code)::SMALLINT END AS slot
    FROM (SELECT r.name AS run, p.evidence, p.query_id, s.scorer,
            unnest(p.doc_nos) AS doc_no, generate_subscripts(p.doc_nos, 1) AS fused_rank,
            unnest(d.codes) AS code, unnest(p.judged_negative) AS judged_negative, unnest(c.scores) AS score
        FROM runs r
        JOIN scorers s ON s.run_id = r.run_id AND s.number = r.decider
        JOIN decision_codes d ON d.run_id = r.run_id
        JOIN pools p ON p.evidence = r.evidence AND p.query_no = d.query_no
        LEFT JOIN scored c
            ON c.evidence = {_SCORED_BY} AND c.query_no = d.query_no AND c.scorer = r.decider) u
    JOIN pool_documents t ON t.evidence = u.evidence AND t.doc_no = u.doc_no""",
    f"""CREATE VIEW scores AS
    SELECT run, query_id, doc_id, scorer, kind, rank, score
    FROM (SELECT r.name AS run, p.evidence, p.query_id, s.scorer, s.kind,
            unnest(p.doc_nos) AS doc_no, unnest(c.ranks) AS rank, unnest(c.scores) AS score
        FROM runs r
        JOIN scorers s ON s.run_id = r.run_id
        JOIN scored c ON c.evidence = {_SCORED_BY} AND c.scorer = s.number
        JOIN pools p ON p.evidence = r.evidence AND p.query_no = c.query_no)
    JOIN pool_documents USING (evidence, doc_no)
    WHERE kind NOT IN ('{RERANKER}', '{JUDGE}') OR score IS NOT NULL""",
    f"""CREATE VIEW positive_scores AS
    SELECT run, query_id, doc_id, scorer, kind, score
    FROM (SELECT r.name AS run, r.evidence, c.query_no, s.scorer, s.kind,
            generate_subscripts(c.positives, 1) AS place, unnest(c.positives) AS score
        FROM runs r
        JOIN scorers s ON s.run_id = r.run_id
        JOIN scored c ON c.evidence = {_SCORED_BY} AND c.scorer = s.number)
    JOIN (SELECT *, row_number() OVER (PARTITION BY evidence, query_no ORDER BY doc_id) AS place
        FROM positives) USING (evidence, query_no, place)""",
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
    """CREATE VIEW triplets AS
    SELECT run_id, query_id, positive_id, doc_id AS negative_id, positive_score, negative_score, rank
    FROM (SELECT s.run_id, r.evidence, s.query_id, s.positive_id, s.positive_score,
            unnest(s.doc_nos) AS doc_no, unnest(s.scores) AS negative_score,
            generate_subscripts(s.doc_nos, 1)::INTEGER AS rank
        FROM selected s JOIN runs r ON r.run_id = s.run_id)
    JOIN pool_documents USING (evidence, doc_no)""",
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
    """CREATE VIEW answers AS
    SELECT * FROM (FROM reviews
        QUALIFY row_number() OVER (PARTITION BY reviewer, query_id, doc_id ORDER BY number DESC) = 1)
    WHERE answer <> 'undone'""",
    """CREATE VIEW weak_positives AS
    WITH negatives AS (
        SELECT v.run, v.query_id, v.doc_id FROM verdicts v WHERE v.slot IS NOT NULL),
    lowest AS (
        SELECT run, query_id, scorer, min(score) FILTER (isfinite(score)) AS lowest
        FROM scores SEMI JOIN negatives USING (run, query_id, doc_id) GROUP BY ALL),
    numbers AS (SELECT run, query_id, count(*) AS negatives FROM negatives GROUP BY ALL),
    compared AS (
        SELECT p.run, p.query_id, p.doc_id, any_value(n.negatives) AS negatives,
            list({'scorer': p.scorer, 'score': p.score, 'lowest_negative': l.lowest} ORDER BY p.scorer)
                AS scores,
            bool_and(p.score < l.lowest) FILTER (isfinite(p.score) AND l.lowest IS NOT NULL) AS weak
        FROM positive_scores p JOIN numbers n USING (run, query_id)
        LEFT JOIN lowest l USING (run, query_id, scorer)
        GROUP BY p.run, p.query_id, p.doc_id)
    SELECT run, query_id, doc_id, negatives, scores FROM compared WHERE weak""",
)
