"""Labels: samples of a run's negatives, and the relevance that people gave to them.

A label belongs to a pair, whatever sample it was drawn for: it outlives the runs, and later samples use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from miner.store import evidence
from miner.store.database import Database
from miner.store.runs import StoredRun

PERSON = "person"
"""The source of a label that a person gave."""


@dataclass(frozen=True)
class Strata:
    """The strata of a run's negatives that a sample was drawn from: one value per stratum."""

    negatives: Sequence[int]
    predicted: Sequence[float]
    """Mean predicted chance of being relevant."""
    weighted: Sequence[float]
    """Mean of the predicted chance times the weight of the query."""
    judged: int
    """Negatives that a judgment or a label already calls not relevant: they are in no stratum."""


@dataclass(frozen=True)
class StoredSample:
    """A random sample of a run's negatives, drawn for labelling."""

    sample: str
    """What names it: a fingerprint of the run, the seed, and the number of labels requested."""
    run_id: str
    seed: int
    requested: int
    """Number of labels requested; fewer are drawn only if the run has fewer negatives that nobody judged."""
    strata: Strata


SCORE, RANK = "score of ", "rank of "
"""What the names of the columns of a scorer begin with."""


def predictable(store: Database, run: StoredRun) -> pa.Table:
    """Returns the candidates of a run that nothing excludes, and those that are known positives, in order.

    Columns candidate, query_no, query_id, doc_id, fused_rank, positive (a judged positive of the query),
    negative (selected as a negative in the run), judged (a judgment says that it is a negative; another class
    of its document does not, as classes may be wrong), for each scorer except judges SCORE and its name (NaN
    without a finite score), and for each retriever RANK and its name (NaN if it did not return the pair).
    """
    table = store.table(
        """SELECT c.candidate, c.query_no, c.query_id, c.doc_id, c.fused_rank,
            p.doc_id IS NOT NULL AS positive, d.slot IS NOT NULL AS negative,
            coalesce(c.judged_negative, false) AND NOT coalesce(q.label <> t.label, false) AS judged
        FROM candidates c
        JOIN queries q ON q.query_id = c.query_id
        JOIN documents t ON t.doc_id = c.doc_id
        LEFT JOIN positives p
            ON p.evidence = c.evidence AND p.query_id = c.query_id AND p.doc_id = c.doc_id
        LEFT JOIN decided d ON d.run_id = $run_id AND d.candidate = c.candidate
        WHERE c.evidence = $evidence AND (c.exclusion IS NULL OR p.doc_id IS NOT NULL)
        ORDER BY c.candidate""",
        {"run_id": run.run_id, "evidence": run.evidence},
    )
    for scorer in run.scorers:
        if scorer.is_judge:  # it graded some pairs only, and a sample must not change when it grades more
            continue
        candidates = evidence.scored_candidates(store, run, scorer)
        rows = np.searchsorted(candidates["candidate"].to_numpy(), table["candidate"].to_numpy())
        scores = np.asarray(candidates["score"].to_numpy(), dtype=np.float64)
        table = table.append_column(SCORE + scorer.name, pa.array(scores[rows]))
        if scorer.is_retriever:
            ranks = evidence.candidate_ranks(store, run, scorer)
            table = table.append_column(RANK + scorer.name, pa.array(ranks[rows]))
    return table


def keep_sample(store: Database, sample: StoredSample, pairs: pa.Table) -> None:
    """Stores a sample and its pairs (position, query_id, doc_id, stratum, predicted, weight).

    The same sample, drawn again, replaces itself and keeps its time and its result.
    """
    with store.transaction():
        before = store.rows("SELECT drawn, result FROM samples WHERE sample = ?", [sample.sample])
        drawn, result = before[0] if before else (datetime.now(UTC).replace(tzinfo=None), None)
        for table in ("samples", "sampled"):
            store.execute(f"DELETE FROM {table} WHERE sample = ?", [sample.sample])
        store.execute(
            "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                sample.sample, sample.run_id, sample.seed, sample.requested,
                json.dumps(vars(sample.strata)), drawn, result,
            ],
        )  # fmt: skip
        store.insert("sampled", pairs, sample=sample.sample, run_id=sample.run_id)


def samples_of(store: Database, run: StoredRun) -> list[StoredSample]:
    """Returns the samples of a run, the one with the most labels first, then the latest."""
    rows = store.rows(
        """SELECT sample, run_id, seed, requested, strata FROM samples WHERE run_id = ?
        ORDER BY (SELECT count(*) FROM sampled SEMI JOIN labels USING (query_id, doc_id)
            WHERE sampled.sample = samples.sample) DESC, drawn DESC, sample""",
        [run.run_id],
    )
    return [
        StoredSample(sample, run_id, seed, requested, Strata(**json.loads(strata)))
        for sample, run_id, seed, requested, strata in rows
    ]


def runs_with_samples(store: Database) -> list[str]:
    """Returns the names of the runs that have a sample, in order."""
    rows = store.rows("SELECT name FROM runs SEMI JOIN samples USING (run_id) ORDER BY name")
    return [name for (name,) in rows]


def runs_with_labels(store: Database) -> list[str]:
    """Returns the names of the runs whose sample gave a false-negative rate, in order."""
    rows = store.rows(
        "SELECT name FROM runs SEMI JOIN (FROM samples WHERE result IS NOT NULL) USING (run_id) ORDER BY name"
    )
    return [name for (name,) in rows]


def sampled_pairs(store: Database, sample: StoredSample, *, texts: bool = False) -> pa.Table:
    """Returns the pairs of a sample in its random order, with their labels (null without one).

    Columns query_id, doc_id, stratum, predicted, weight, relevance, source, since (whether the label was
    given after the sample was drawn); with `texts` also query and document. A pair whose text is no longer in
    the store is left out then.
    """
    columns, joins = "", ""
    if texts:
        columns = ", q.text AS query, t.text AS document"
        joins = "JOIN queries q USING (query_id) JOIN document_texts t USING (doc_id)"
    return store.table(
        f"""SELECT query_id, doc_id, stratum, predicted, weight, relevance, source,
            labelled > drawn AS since{columns}
        FROM sampled JOIN samples USING (sample) LEFT JOIN labels USING (query_id, doc_id) {joins}
        WHERE sample = ? ORDER BY position""",
        [sample.sample],
    )


def labelled_sample(store: Database, run: StoredRun) -> tuple[StoredSample, pa.Table] | None:
    """Returns the run's sample with the most labels that count, and these rows of `sampled_pairs`.

    A label counts if it was given for the sample: after it was drawn. The labels that its pairs had before
    are of another run's negatives, and not drawn at random; they count down to the last row that was
    labelled since, and if the whole sample has labels. None if no label counts.
    """
    best: tuple[StoredSample, pa.Table] | None = None
    for sample in samples_of(store, run):
        pairs = sampled_pairs(store, sample)
        has_label = pairs["relevance"].is_valid().to_numpy()
        since = np.flatnonzero(pairs["since"].fill_null(False).to_numpy(zero_copy_only=False))
        until = len(has_label) if has_label.all() else since[-1] + 1 if len(since) else 0
        counting = pairs.slice(0, until).filter(pa.array(has_label[:until]))
        if counting.num_rows > (best[1].num_rows if best else 0):
            best = sample, counting
    return best


def keep_labels(
    store: Database,
    labels: pa.Table,
    origin: str,
    empty: Sequence[tuple[str, str]] = (),
    source: str = PERSON,
) -> tuple[int, int]:
    """Stores labels (query_id, doc_id, relevance); a label replaces another one of the same pair.

    A label that is in the store already keeps its time and its origin. Labels of the `empty` pairs are
    removed if they are of the same origin. Returns how many pairs had another relevance before, and how many
    labels were removed.
    """
    moment = pa.array([datetime.now(UTC).replace(tzinfo=None)] * labels.num_rows, pa.timestamp("us"))
    with store.transaction():
        known = set(store.rows("SELECT query_id, doc_id, relevance FROM labels WHERE source = ?", [source]))
        is_new = [row not in known for row in zip(*(column.to_pylist() for column in labels), strict=True)]
        labels, moment = labels.filter(pa.array(is_new)), moment.filter(pa.array(is_new))
        pairs = [labels["query_id"].to_pylist(), labels["doc_id"].to_pylist()]
        ((changed,),) = store.rows(
            """SELECT count(*) FROM labels JOIN (SELECT unnest(?) AS query_id, unnest(?) AS doc_id,
                unnest(?) AS now) USING (query_id, doc_id) WHERE relevance <> now""",
            [*pairs, labels["relevance"].to_pylist()],
        )
        store.execute("DELETE FROM labels WHERE (query_id, doc_id) IN (SELECT (unnest(?), unnest(?)))", pairs)
        store.insert("labels", labels.append_column("labelled", moment), source=source, origin=origin)
        removed = store.rows(
            """DELETE FROM labels WHERE origin = ? AND (query_id, doc_id) IN (SELECT (unnest(?), unnest(?)))
            RETURNING 1""",
            [origin, [query for query, _ in empty], [doc for _, doc in empty]],
        )
    return int(changed), len(removed)


def keep_result(store: Database, sample: StoredSample, result: Mapping[str, Any]) -> None:
    """Stores the false-negative rate that the labels of a sample give."""
    store.execute("UPDATE samples SET result = ? WHERE sample = ?", [json.dumps(result), sample.sample])


def false_negative_rate_of(store: Database, run: StoredRun) -> dict[str, Any] | None:
    """Returns a run's false-negative rate as it was last estimated from labels; None without labels.

    The keys are the fields of `auditing.labels.FalseNegativeRate`.
    """
    rows = store.rows(
        """SELECT result FROM samples WHERE run_id = ? AND result IS NOT NULL
        ORDER BY (result->'labels')::INTEGER DESC, drawn DESC LIMIT 1""",
        [run.run_id],
    )
    return dict(json.loads(rows[0][0])) if rows else None
