"""The data that was ingested: documents, queries and judgments, and hashes of their content.

Silver judgments are a reranker's. Mining, exclusion and evaluation use what people judged and never read
them, so that a run stays valid when silver judgments come or go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import pyarrow as pa

from miner.errors import StoreError, UsageError, listed, near, shown, snippet
from miner.ranges import split_name
from miner.store.database import Database
from miner.store.tables import GENERATED, GOLD, RELABELLED, SILVER

IDENTITY = "queries_are_documents"
"""The key of `meta` that is true if a query and the document with its id are the same text."""

MINED = f"""SELECT DISTINCT query_id FROM {GOLD} WHERE split = ? AND relevance > 0"""
"""SQL for the queries that mining a split uses."""


def documents(store: Database) -> pa.Table:
    """Returns every document without its text, ordered by doc_id.

    Columns doc_id, text_key, passage_key, passage_start, label, cluster, parent. The passage is the text
    without its title if that can stand alone (`text.document_keys`), else the whole text. The cluster is that
    of the document's copies, null without copies. The parent is the document that a chunk is part of, null
    for a whole document.
    """
    return store.table(
        """SELECT d.doc_id, text_key, passage_key, passage_start, label, cluster, parent
        FROM document_texts d LEFT JOIN duplicates ON role = 'documents' AND id = d.doc_id
        LEFT JOIN parents p ON p.doc_id = d.doc_id ORDER BY d.doc_id"""
    )


TEXTS_READ = 2048
"""Texts that are read at a time; few, since a text can be long."""


def document_texts(store: Database) -> Iterator[pa.RecordBatch]:
    """Yields the texts of all documents, with the titles before them, ordered by doc_id."""
    return store.batches("SELECT text FROM document_texts ORDER BY doc_id", TEXTS_READ)


_ID = {"queries": "query_id", "documents": "doc_id", "document_texts": "doc_id"}


def texts_by_id(
    store: Database, table: str, ids: Sequence[str], columns: Sequence[str] = ("text",)
) -> dict[str, tuple[Any, ...]]:
    """Returns columns (SQL) of some queries, documents or document_texts by id, without ids that are gone.

    One call reads the ids of the whole table: read many texts at a time.
    """
    key = _ID[table]
    rows = store.rows(
        f"SELECT {key}, {', '.join(columns)} FROM {table} WHERE {key} IN (SELECT unnest(?::VARCHAR[]))",
        [list(dict.fromkeys(ids))],
    )
    return {one: tuple(values) for one, *values in rows}


def queries(store: Database, split: str) -> pa.Table:
    """Returns the queries with at least one positive in `split`, ordered by query_id.

    Columns query_id, text, text_key, label. Raises UsageError if the split has none.
    """
    table = store.table(
        f"""SELECT query_id, text, text_key, label FROM queries
        WHERE query_id IN ({MINED}) ORDER BY query_id""",
        [split],
    )
    if table.num_rows == 0:
        known = splits(store)
        raise UsageError(
            f"no query has a judged positive in split '{split}'{near(split, known)}",
            split_hint(store, split, "choose another split", known),
        )
    return table


def queries_are_documents(store: Database) -> bool:
    """Returns whether the user said that a query and the document with its id are the same text."""
    return bool(store.meta(IDENTITY))


def set_queries_are_documents(store: Database, same: bool) -> None:
    """Stores whether a query and the document with its id are the same text."""
    store.set_meta(IDENTITY, True if same else None)


def splits(store: Database) -> list[str]:
    """Returns the names of the splits that have positives."""
    rows = store.rows(f"SELECT DISTINCT split FROM {GOLD} WHERE relevance > 0 ORDER BY split")
    return [split for (split,) in rows]


def positives(store: Database, split: str) -> pa.Table:
    """Returns the judged positives of a split as (query_id, doc_id), ordered."""
    return graded_positives(store, split).select(["query_id", "doc_id"])


def graded_positives(store: Database, split: str) -> pa.Table:
    """Returns the judged positives of a split as (query_id, doc_id, relevance), ordered.

    The relevance of a pair that was judged several times is the highest one.
    """
    return store.table(
        f"""SELECT query_id, doc_id, max(relevance) AS relevance FROM {GOLD}
        WHERE relevance > 0 AND split = ? GROUP BY query_id, doc_id ORDER BY query_id, doc_id""",
        [split],
    )


def by_text(judgments: str) -> str:
    """Returns SQL for judgments (query_id, doc_id, split, relevance) that queries of equal text share.

    A judgment of one query holds for every query of the same text. `judgments` is the SQL of the judgments to
    share.
    """
    return f"""SELECT q.query_id, j.doc_id, j.split, j.relevance
        FROM queries q JOIN queries same USING (text_key) JOIN {judgments} j ON j.query_id = same.query_id"""


_SHARED = f"""SELECT query_id, doc_id, max(relevance) AS relevance FROM ({by_text(GOLD)}) GROUP BY ALL"""


def known_positives(store: Database) -> pa.Table:
    """Returns the pairs (query_id, doc_id) that are relevant in any split, ordered.

    Queries of equal text share their judgments.
    """
    return store.table(
        f"SELECT query_id, doc_id FROM ({_SHARED}) WHERE relevance > 0 ORDER BY query_id, doc_id"
    )


def known_negatives(store: Database) -> pa.Table:
    """Returns the pairs (query_id, doc_id) that were judged not relevant and in no split relevant, ordered.

    Queries of equal text share their judgments.
    """
    return store.table(
        f"SELECT query_id, doc_id FROM ({_SHARED}) WHERE relevance <= 0 ORDER BY query_id, doc_id"
    )


def content_hashes(store: Database, split: str) -> dict[str, str]:
    """Returns a hash of the documents, of the queries to mine, and of all judgments but silver ones.

    Each is a sum of 128-bit row hashes: it does not depend on the order of rows, but on every row and on how
    often it occurs. A further entry exists if queries are documents of the corpus.
    """
    hashes = _hashes(
        store,
        documents=("documents", "doc_id, title, text, label", "", []),
        queries=_mined_queries(MINED, split),
        judgments=(GOLD, "query_id, doc_id, relevance, split", "", []),
    )
    return hashes | ({IDENTITY: "yes"} if queries_are_documents(store) else {})


def queries_hash(store: Database, ids: str, value: str) -> str:
    """Returns the hash of the queries with the ids that the SQL `ids` selects; `value` is its parameter."""
    return _hashes(store, queries=_mined_queries(ids, value))["queries"]


def text_hashes(store: Database) -> dict[str, str]:
    """Returns a hash of the texts of all documents, and of all queries; computed as in `content_hashes`."""
    return _hashes(
        store,
        documents=("documents", "doc_id, title, text", "", []),
        queries=("queries", "query_id, text", "", []),
    )


_LOW = f"{2**64 - 1}::UHUGEINT"


_Rows = tuple[str, str, str, list[str]]
"""Rows to hash: SQL for a table, its columns and a WHERE clause, and the values of that."""


def _mined_queries(ids: str, value: str) -> _Rows:
    return "queries", "query_id, text, label", f"WHERE query_id IN ({ids})", [value]


def _hashes(store: Database, **parts: _Rows) -> dict[str, str]:
    queries = [
        (
            f"""SELECT count(*) AS rows, sum((number & {_LOW})::HUGEINT)::VARCHAR AS upper,
                sum((number >> 64)::HUGEINT)::VARCHAR AS lower
            FROM (SELECT md5_number(to_json(row({columns}))::VARCHAR) AS number FROM {table} {where})""",
            values,
        )
        for table, columns, where, values in parts.values()
    ]
    rows = [one.to_pylist()[0] for one in store.tables(*queries)]
    return {
        name: f"{row['rows']}:{(int(row['upper'] or 0) << 64) + int(row['lower'] or 0):x}"
        for name, row in zip(parts, rows, strict=True)
    }


def counts(store: Database) -> dict[str, int]:
    """Returns the number of documents, queries, judgments and runs."""
    ((documents, queries, judgments, runs),) = store.rows(
        """SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM queries),
            (SELECT count(*) FROM judgments), (SELECT count(*) FROM runs)"""
    )
    return {"documents": documents, "queries": queries, "judgments": judgments, "runs": runs}


def require_query(store: Database, query_id: str) -> str:
    """Returns the text of a query; raises StoreError if the store does not have the query.

    The error names the nearest id, or the ids of the queries with that text, if a text was given.
    """
    rows = store.rows("SELECT text FROM queries WHERE query_id = ?", [query_id])
    if not rows:
        known = [i for (i,) in store.rows("SELECT query_id FROM queries LIMIT 10000")]
        meant = "" if " " in query_id.strip() else near(query_id, known)
        hint = _query_hint(store, query_id, bool(meant))
        raise StoreError(f"no query '{shown(query_id)}' in {store.path}{meant}", hint)
    text: str = rows[0][0]
    return text


def _query_hint(store: Database, wanted: str, is_near: bool) -> str:
    """Returns how to find the id of a query that was named by its text, or by an id that does not exist."""
    with_text = store.rows(
        """SELECT query_id, text FROM queries WHERE contains(lower(text), lower($text)) AND $text <> ''
        ORDER BY length(text), query_id LIMIT 4""",
        {"text": "" if is_near else " ".join(wanted.split())},
    )
    if with_text:
        some = "; ".join(f"{shown(query_id)} ({snippet(text)})" for query_id, text in with_text[:3])
        return f"a query is named by its id; queries with this text: {some}{'; …' * (len(with_text) > 3)}"
    words = re.findall(r"\w{3,}", wanted) if " " in wanted.strip() else []
    like = f" WHERE text ILIKE '%{max(words, key=len)}%'" if words else ""
    select = f'miner sql {quote(str(store.path))} "SELECT query_id, text FROM queries{like} LIMIT 10"'
    is_document = store.rows("SELECT 1 FROM documents WHERE doc_id = ?", [wanted])
    return ingest_first(store, f"{'it is the id of a document; ' * bool(is_document)}list them: {select}")


def document_ids(store: Database) -> pa.Array:
    """Returns the ids of all documents, sorted."""
    table = store.table("SELECT doc_id FROM documents ORDER BY doc_id")
    return table["doc_id"].combine_chunks()


ROLES = ("documents", "queries")


def unlabelled_texts(
    store: Database, role: str, roles: tuple[str, ...], without: str | None
) -> Iterator[pa.RecordBatch]:
    """Yields the distinct texts of one of `roles`, ordered by id.

    `roles` are some of ROLES. A query with the text of a document is left out if documents are among them.
    Queries that are judged in the split `without` are left out, and all texts equal to one of them. Other
    judgments have no effect.
    """
    shared = role == "queries" and "documents" in roles
    known = "UNION ALL SELECT text_key FROM documents" if shared else ""
    table, key = {"documents": ("document_texts", "doc_id"), "queries": ("queries", "query_id")}[role]
    return store.batches(
        f"""WITH other AS (
            SELECT text_key FROM queries
            WHERE query_id IN (SELECT query_id FROM judgments WHERE split = $1) {known})
        SELECT text FROM {table} WHERE {key} IN (
            SELECT min({key}) FROM {role}
            WHERE text_key <> 0 AND text_key NOT IN (SELECT text_key FROM other) GROUP BY text_key)
        ORDER BY {key}""",
        TEXTS_READ,
        [without],
    )


UNRANKED = ("own_text", "own_document", "other_split")
"""Why a query's ranking leaves a document out: it has the query's text; it is the query itself, if queries
are documents; it is relevant to the query's text in another split only."""

_BY_TEXT = by_text(GOLD)


@dataclass(frozen=True)
class SplitFacts:
    """Facts about the judgments of a split that show which task it is."""

    judgments: int
    queries: int
    labelled: int
    """Queries that have a label."""
    grades: int
    """Distinct relevances."""
    least: float
    """The lowest relevance; 0 without judgments."""
    fractions: bool
    """Whether any relevance is not a whole number."""


def split_facts(store: Database, split: str) -> SplitFacts:
    """Returns the facts of a split; all 0 or false if nothing is judged in it."""
    (row,) = store.rows(
        f"""SELECT count(*), count(DISTINCT query_id),
            count(DISTINCT query_id) FILTER (WHERE label IS NOT NULL),
            count(DISTINCT relevance), coalesce(min(relevance), 0),
            coalesce(bool_or(relevance <> floor(relevance)), false)
        FROM {GOLD} j JOIN queries USING (query_id) WHERE split = ?""",
        [split],
    )
    return SplitFacts(*row)


def relevant(store: Database, split: str) -> pa.Table:
    """Returns the relevant texts of each query in a split, ordered: query_id, text_key, relevance.

    Queries of equal text share their judgments, and documents of equal text are one. The relevance is above
    0, and the highest if several are given.
    """
    return store.table(
        f"""SELECT query_id, text_key, max(relevance) AS relevance
        FROM ({_BY_TEXT}) JOIN documents USING (doc_id)
        WHERE split = ? AND relevance > 0 GROUP BY ALL ORDER BY query_id, text_key""",
        [split],
    )


def unranked(store: Database, split: str) -> pa.Table:
    """Returns the pairs that the rankings of a split leave out: query_id, text_key (of documents), why.

    A pair that is judged in the split itself is never left out. `why` is the first of UNRANKED that applies.
    """
    return store.table(
        f"""WITH judged AS (SELECT j.*, text_key FROM ({_BY_TEXT}) j JOIN documents USING (doc_id)),
        hidden AS (
            SELECT query_id, d.text_key, 0 AS why FROM queries q JOIN documents d USING (text_key)
            UNION ALL SELECT query_id, d.text_key, 0 FROM queries q JOIN documents d
                ON d.passage_key = q.text_key
            UNION ALL SELECT query_id, d.text_key, 1 FROM queries q JOIN documents d ON doc_id = query_id
                WHERE $same
            UNION ALL SELECT query_id, text_key, 2 FROM judged WHERE split <> $split AND relevance > 0)
        SELECT query_id, text_key, $names[min(why) + 1] AS why FROM hidden
        ANTI JOIN (FROM judged WHERE split = $split) USING (query_id, text_key)
        GROUP BY query_id, text_key ORDER BY query_id, text_key""",
        {"split": split, "same": queries_are_documents(store), "names": list(UNRANKED)},
    )


def graded_pairs(store: Database, split: str) -> pa.Table:
    """Returns every judged pair of a split, ordered: query_id, doc_id, first, second, relevance.

    `first` and `second` are the texts; the relevance is the highest if several are given.
    """
    return store.table(
        f"""SELECT j.query_id, j.doc_id, any_value(q.text) AS first,
            any_value(d.text) AS second, max(j.relevance) AS relevance
        FROM {GOLD} j JOIN queries q USING (query_id) JOIN document_texts d USING (doc_id)
        WHERE j.split = ? GROUP BY ALL ORDER BY j.query_id, j.doc_id""",
        [split],
    )


_LABELLED = (
    "FROM {table} WHERE label IS NOT NULL AND {key} IN (SELECT {key} FROM "
    + GOLD
    + " WHERE split = ?) ORDER BY {key}"
)
_LABELLED_DOCUMENTS = _LABELLED.format(table="document_texts", key="doc_id")


def labelled_queries(store: Database, split: str) -> pa.Table:
    """Returns the queries judged in a split that have a label, ordered: query_id, text, text_key, label."""
    labelled = _LABELLED.format(table="queries", key="query_id")
    return store.table(f"SELECT query_id, text, text_key, label {labelled}", [split])


def labelled_documents(store: Database, split: str) -> pa.Table:
    """Returns the documents judged in a split that have a label, ordered: doc_id, text_key, label."""
    return store.table(f"SELECT doc_id, text_key, label {_LABELLED_DOCUMENTS}", [split])


def labelled_texts(store: Database, split: str) -> Iterator[pa.RecordBatch]:
    """Yields the texts of `labelled_documents`, in the same order."""
    return store.batches(f"SELECT text {_LABELLED_DOCUMENTS}", TEXTS_READ, [split])


def judged_splits(store: Database) -> list[str]:
    """Returns the names of the splits in which anything is judged."""
    return [split for (split,) in store.rows(f"SELECT DISTINCT split FROM {GOLD} ORDER BY split")]


def require_judgments(store: Database, split: str, flag: str = "--split", trained: str | None = None) -> None:
    """Raises UsageError if nothing is judged in a split; the error lists the splits for the option `flag`.

    It does not list the split `trained`, on which a model is trained.
    """
    judged = judged_splits(store)
    if split in judged:
        return
    known = [one for one in judged if one != trained]
    if judged and not known:
        hint = (
            f"the store has only split '{trained}', which is for training: ingest other judgments with "
            f"miner ingest {quote(str(store.path))} SOURCE --split {quote(split)}"
        )
    else:
        hint = split_hint(store, split, f"choose one with {flag}", known)
    raise UsageError(f"nothing is judged in split '{split}' of {store.path}{near(split, known)}", hint)


def split_hint(store: Database, split: str, advice: str, known: Sequence[str]) -> str:
    """Returns what to do if a store lacks a split: `advice` with its splits, or to ingest first."""
    if old := [one for one in known if one != split and split_name(one) == split]:
        return (
            f"the store has it as '{shown(old[0])}', a name of split {split} that this version of miner does "
            f"not keep: ingest its sources into a new store"
        )
    return f"{advice}: {listed(known)}" if known else ingest_first(store, f"{advice}: none has a positive")


def ingest_first(store: Database, otherwise: str) -> str:
    """Returns the hint to ingest for a store without judgments, and `otherwise` for one that has some.

    For a corpus alone it is how to get queries.
    """
    if store.rows("SELECT 1 FROM judgments LIMIT 1"):
        return otherwise
    command = next_command(store)
    if is_corpus_alone(store):
        return (
            "the store holds documents, but no queries: a language model makes some from the documents, "
            f"{command}; or ingest queries with judgments"
        )
    return f"the store holds no judgments, so ingest first: {command}"


def next_command(store: Database) -> str:
    """Returns the command that comes before training: to mine, or what mining needs first."""
    path = quote(str(store.path))
    if store.rows("SELECT 1 FROM judgments LIMIT 1"):
        return f"miner mine {path}"
    if is_corpus_alone(store):
        return f"miner generate {path} --endpoint URL --model NAME"
    return f"miner ingest {path} SOURCE"


def is_corpus_alone(store: Database) -> bool:
    """Returns whether a store holds documents, but neither queries nor judgments."""
    found = counts(store)
    return bool(found["documents"]) and not found["queries"] and not found["judgments"]


def provenance(store: Database) -> dict[str, Any]:
    """Returns the number of judgments per split and source, and the origin of the judgments that models made.

    `positive` is None for silver judgments that are scores, since no threshold says which are relevant.
    """
    rows = store.rows(
        """SELECT split, source, count(*), count(*) FILTER (relevance > 0) FROM judgments
        GROUP BY ALL ORDER BY ALL"""
    )
    origins = {name: store.meta(name) for name in (GENERATED, RELABELLED, SILVER)}
    scores = SILVER if (origins[SILVER] or {}).get("soft") else None
    counts = [
        {
            "split": split,
            "source": source,
            "judgments": judgments,
            "positive": None if source == scores else positive,
        }
        for split, source, judgments, positive in rows
    ]
    return {"counts": counts, "origins": {name: origin for name, origin in origins.items() if origin}}


def splits_with_positives(store: Database, query_id: str) -> list[str]:
    """Returns the splits in which a query has a positive, in order."""
    rows = store.rows(
        f"SELECT DISTINCT split FROM {GOLD} WHERE query_id = ? AND relevance > 0 ORDER BY split", [query_id]
    )
    return [split for (split,) in rows]


def changed_texts(store: Database, texts: Mapping[str, str]) -> list[str]:
    """Returns which of documents and queries have changed since these hashes of their texts were computed."""
    return [name for name, value in text_hashes(store).items() if texts.get(name) != value]
