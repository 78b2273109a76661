"""Ingesting data: parts are collected in temporary tables, checked there, and merged in one transaction.

The temporary tables are in a database in memory, which spills to disk; the store is attached only for the
merge.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from miner.errors import InputError, shown
from miner.store.access import Note, quiet
from miner.store.chunks import BEST, give_judgments_to_chunks, merge_parents, require_own_ids
from miner.store.corpus import queries_are_documents, set_queries_are_documents
from miner.store.database import Database
from miner.store.division import Division, divide_arriving, queries_by_split, require_apart
from miner.store.ingested import Identity, IngestReport, Rejection
from miner.store.keys import Keying
from miner.store.steps import steps

EXAMPLES_SHOWN = 3
"""How many rows a message shows per reason; the table `rejected` has all of them."""

_LONGEST_EXAMPLE = 1000
"""Characters of a row's file, line and detail in a message."""

HARMLESS = (
    "duplicate_row", "unmapped_relevance", "empty_list", "empty_file", "unanswerable", "unanswered",
    "disagreement",
)  # fmt: skip
"""Reasons that do not count as bad: leaving out such a row loses nothing, the user requested it, or
people who annotated the same pair disagree."""

_ARRIVING = {
    "documents": "doc_id VARCHAR, title VARCHAR, text VARCHAR, text_key BIGINT, passage_key BIGINT, "
    "label VARCHAR",
    "queries": "query_id VARCHAR, text VARCHAR, text_key BIGINT, label VARCHAR",
    "judgments": "query_id VARCHAR, doc_id VARCHAR, relevance DOUBLE, split VARCHAR, source VARCHAR, "
    "undivided BOOLEAN, annotated BOOLEAN",
    "parents": "doc_id VARCHAR, parent VARCHAR, number INTEGER, start BIGINT",
    "rows": "kind VARCHAR, key BIGINT",
    "rejected": "reason VARCHAR, detail VARCHAR",
}
_CHECKING = 0.15
"""Share of the time that texts take which goes into the checks; the rest is writing them, compressed."""
_SOURCE_COLUMNS = "origin VARCHAR, line BIGINT"
_WHERE = "origin || coalesce(':' || line, '')"


@dataclass(frozen=True)
class _TextTable:
    """A table of texts: documents or queries."""

    table: str
    id: str
    noun: str
    content: tuple[str, ...]
    keys: tuple[str, ...]


_DOCUMENTS = _TextTable("documents", "doc_id", "document", ("title", "text"), ("text_key", "passage_key"))
_QUERIES = _TextTable("queries", "query_id", "query", ("text",), ("text_key",))


@contextmanager
def intake(path: str | os.PathLike[str], spill: Path, note: Note = quiet) -> Iterator[Intake]:
    """Opens the store at `path`, or makes it, and yields the intake to which data is added.

    Until `finish`, other processes can read the store but not write to it. Data that exceeds the memory goes
    to the folder `spill`, which the caller removes; `note` is as in `Database.open`. Raises StoreError.
    """
    with Database.open(path, create=True, note=note) as store:
        store.release()
        with Database.in_memory(store.path, spill) as arriving, closing(Keying()) as keying:
            yield Intake(store, arriving, keying)


class Intake:
    """One ingest into an open store: `add` as often as needed, then `finish`."""

    def __init__(self, store: Database, arriving: Database, keying: Keying) -> None:
        self._target, self._store, self._keying = store, arriving, keying
        self._waiting: deque[tuple[str, Callable[[], pa.Table]]] = deque()
        self._cleaned = 0
        self._sizes = dict.fromkeys(_ARRIVING, 0)
        for name, columns in _ARRIVING.items():
            arriving.execute(f"CREATE OR REPLACE TEMP TABLE arriving_{name} ({columns}, {_SOURCE_COLUMNS})")

    def add(
        self,
        tables: Mapping[str, pa.Table],
        cleaned: int = 0,
        *,
        divided: bool = False,
        annotated: bool = False,
    ) -> None:
        """Adds tables of new rows, with the names and columns of `sources.Part`.

        `cleaned` is the number of texts in them from which characters were removed. `divided`: the source has
        divided its queries into splits itself. `annotated`: several people may have judged a pair. The
        store's own tables do not change before `finish`.
        """
        for name, table in tables.items():
            self._sizes[name] += table.nbytes
            if name in ("documents", "queries"):
                self._waiting.append((name, self._keying.begin(name, table)))
                continue
            if name == "judgments":
                for column, value in (("undivided", not divided), ("annotated", annotated)):
                    table = table.append_column(column, pa.array([value] * table.num_rows))
            self._store.insert(f"arriving_{name}", table)
        self._cleaned += cleaned
        self._insert_texts(self._keying.processes)

    def _insert_texts(self, most: int) -> None:
        """Inserts the texts that wait for their keys, in order, until at most so many tables wait."""
        while len(self._waiting) > most:
            name, keyed = self._waiting.popleft()
            self._store.insert(f"arriving_{name}", keyed())

    @property
    def is_empty(self) -> bool:
        """Whether no row was added."""
        return not self._sizes["rows"]

    @property
    def size(self) -> int:
        """The bytes of the rows that were added."""
        return sum(self._sizes.values())

    def finish(
        self,
        max_bad: float,
        unpad_query_ids: bool = False,
        queries_are_documents: bool | None = None,
        division: Division | None = None,
        chunk_positives: str = BEST,
        advance: Callable[[int], None] = lambda _: None,
    ) -> IngestReport:
        """Checks the added rows and merges them into the store, in one transaction; returns the report.

        `unpad_query_ids` removes leading zeros from added query ids that are numbers. `queries_are_documents`
        is stored; None keeps the stored value. `division` puts queries into dev and test, `chunk_positives`
        is as in `chunks.give_judgments_to_chunks`. `advance` gets how many more of `size` bytes are done.
        Raises InputError, and changes nothing, if an id is not valid, an id has two texts, judgments have no
        queries or no documents at all, or more than the share `max_bad` of the rows of a kind is bad.
        """
        store, sizes = self._store, self._sizes
        self._insert_texts(0)
        with steps(store, advance) as step, self._target.attached_to(store), store.transaction():
            if unpad_query_ids:
                _unpad_query_ids(store)
            _refuse_ids(store)
            require_own_ids(store)
            counts = {}
            for kind in (_DOCUMENTS, _QUERIES):
                step(_CHECKING * sizes[kind.table])
                _reject_empty(store, kind)
                _refuse_conflicts(store, kind)
                step((1 - _CHECKING) * sizes[kind.table])
                counts[kind.table] = _merge_texts(store, kind)
            step(sizes["parents"] + sizes["judgments"])
            cut, all_chunks = merge_parents(store), give_judgments_to_chunks(store, chunk_positives)
            _refuse_one_side(store)
            kept_split = 0
            if division is not None:
                kept_split = divide_arriving(store, division)
                require_apart(store)
            _sort_judgments(store)
            step(sizes["rows"] + sizes["rejected"])
            _reject_duplicates(store)
            _refuse_bad(store, max_bad, "" if unpad_query_ids else _padding(store))
            counts["judgments"] = _merge_judgments(store)
            _list_rejected(store)
            if queries_are_documents is not None:
                set_queries_are_documents(store, queries_are_documents)
            return IngestReport(
                added={table: added for table, (added, _) in counts.items()},
                already_there={table: there for table, (_, there) in counts.items()},
                splits=(splits := _splits(store)),
                in_several_splits=_in_several_splits(store) if len(splits) > 1 else 0,
                queries=queries_by_split(store),
                kept_split=kept_split,
                cleaned=self._cleaned,
                rejected=_rejections(store),
                identity=_identity(store),
                cut=cut,
                all_chunks=all_chunks,
            )


def _unpad_query_ids(store: Database) -> None:
    for table in ("queries", "judgments"):
        store.execute(
            f"""UPDATE arriving_{table} SET query_id = {_UNPADDED}
            WHERE regexp_full_match(query_id, '0[0-9]+')"""
        )


_UNPADDED = "coalesce(nullif(ltrim(query_id, '0'), ''), '0')"
_NEAR = r"regexp_replace(lower({}), '(^|[^0-9])0+([0-9])', '\1\2', 'g')"
"""SQL that maps ids that differ only in case or leading zeros to the same text."""
_BLANK = r"[\s\x0b\x1c-\x1f\x85\p{Z}]"
_NO_ID = rf"^{_BLANK}|{_BLANK}$|^[\p{{Cc}}\p{{Cf}}]+$"


def _refuse_ids(store: Database) -> None:
    """Raises InputError for an id with white space at an end, or with control characters only."""
    for table, column, noun in (
        ("documents", "doc_id", "document"),
        ("queries", "query_id", "query"),
        ("judgments", "query_id", "query"),
        ("judgments", "doc_id", "document"),
    ):
        invalid = store.rows(
            f"""SELECT {column}, {_WHERE} FROM arriving_{table} WHERE regexp_matches({column}, ?)
            ORDER BY rowid LIMIT 1""",
            [_NO_ID],
        )
        for identity, where in invalid:
            blank = identity.strip() != identity
            raise InputError(
                f"{where}: {noun} id '{shown(identity)}' "
                + ("begins or ends with white space" if blank else "has only control characters"),
                "correct the file: ids are compared character by character",
            )


def _refuse_one_side(store: Database) -> None:
    """Raises InputError if sources and store have judgments but no query, or no document, for any of them."""
    if not store.rows("SELECT 1 FROM arriving_judgments LIMIT 1"):
        return
    for kind, called in ((_QUERIES, "queries (topics)"), (_DOCUMENTS, "documents")):
        if store.rows(f"SELECT 1 FROM arriving_{kind.table} LIMIT 1"):
            continue
        known = f"SELECT 1 FROM arriving_judgments SEMI JOIN {kind.table} USING ({kind.id}) LIMIT 1"
        if not store.rows(known):
            raise InputError(
                f"the sources hold judgments, but no {called} were found",
                f"name the file of the {called} too, or ingest it first",
            )


def _reject(store: Database, select: str) -> None:
    store.execute(f"INSERT INTO arriving_rejected (origin, line, reason, detail) {select}")


def _reject_duplicates(store: Database) -> None:
    _reject(
        store,
        f"""SELECT a.origin, a.line, 'duplicate_row', 'the same row as ' || first.location
        FROM arriving_rows a JOIN (
            SELECT kind, key, min(rowid) AS id, arg_min({_WHERE}, rowid) AS location FROM arriving_rows
            GROUP BY kind, key HAVING count(*) > 1) first USING (kind, key)
            ANTI JOIN arriving_rejected bad
                ON bad.origin = a.origin AND bad.line IS NOT DISTINCT FROM a.line
        WHERE a.rowid > first.id ORDER BY a.rowid""",
    )


def _reject_empty(store: Database, kind: _TextTable) -> None:
    _reject(
        store,
        f"""SELECT origin, line, 'empty_text', '{kind.noun} ''' || {_cut(kind.id)} || ''' has no text'
        FROM arriving_{kind.table} WHERE text_key = 0 ORDER BY rowid""",
    )


def _refuse_conflicts(store: Database, kind: _TextTable) -> None:
    """Raises InputError if an id has two texts or two labels, in the new rows or together with the store."""
    every = f"""SELECT {kind.id} AS id, hash({", ".join(kind.content)}) AS content, label,
            {_WHERE} AS location, rowid AS number
        FROM arriving_{kind.table} WHERE text_key <> 0
        UNION ALL SELECT {kind.id}, hash({", ".join(kind.content)}), label, 'the store', -1
        FROM {kind.table} WHERE {kind.id} IN (SELECT {kind.id} FROM arriving_{kind.table})"""
    clashing = store.rows(
        f"""WITH every AS ({every}), clashing AS (
            SELECT id, min(content) <> max(content) AS by_text, min(number) AS number FROM every
            GROUP BY id HAVING by_text OR min(label) <> max(label))
        SELECT id, by_text, (SELECT count(*) FROM clashing) FROM clashing ORDER BY number, id LIMIT 1"""
    )
    for identity, by_text, number in clashing:
        column = "content" if by_text else "label"
        locations = store.rows(
            f"""SELECT arg_min(location, number) FROM ({every}) WHERE id = ? AND {column} IS NOT NULL
            GROUP BY {column} ORDER BY min(number) LIMIT 2""",
            [identity],
        )
        what = "texts" if by_text else "labels"
        more = f" (and {number - 1} more such ids)" if number > 1 else ""
        raise InputError(
            f"{kind.noun} '{shown(identity)}' has two {what}: {locations[0][0]} and {locations[1][0]}{more}",
            f"give every {kind.noun} its own id, or ingest into another store",
        )


def _merge_texts(store: Database, kind: _TextTable) -> tuple[int, int]:
    """Adds the texts that the store lacks; returns their number, and the number that it already had."""
    columns = ", ".join((kind.id, *kind.content, *kind.keys, "label"))
    before = _count(store, kind.table)
    store.execute(
        f"""INSERT INTO {kind.table} ({columns}) SELECT {columns} FROM arriving_{kind.table}
        WHERE rowid IN (
            SELECT min(rowid) FROM arriving_{kind.table}
            WHERE text_key <> 0 AND {kind.id} NOT IN (SELECT {kind.id} FROM {kind.table})
            GROUP BY {kind.id})"""
    )
    store.execute(
        f"""UPDATE {kind.table} SET label = known.label FROM (
            SELECT {kind.id} AS id, max(label) AS label FROM arriving_{kind.table}
            WHERE label IS NOT NULL AND text_key <> 0 GROUP BY {kind.id}) known
        WHERE {kind.table}.{kind.id} = known.id AND {kind.table}.label IS NULL"""
    )
    added = _count(store, kind.table) - before
    arrived = f"SELECT DISTINCT {kind.id} FROM arriving_{kind.table} WHERE text_key <> 0"
    return added, _count(store, f"({arrived})") - added


def _sort_judgments(store: Database) -> None:
    """Rejects judgments of unknown queries or documents, and those below the pair's highest relevance.

    If a pair has several relevances in one split, in the new rows or the store, the highest counts: the order
    of rows must never turn a positive into a negative.
    """
    store.execute(
        """CREATE OR REPLACE TEMP TABLE sorted_judgments AS
        WITH best AS (
            SELECT a.*, a.rowid AS number, greatest(s.relevance, max(a.relevance) OVER (
                PARTITION BY a.query_id, a.doc_id, a.split)) AS best
            FROM arriving_judgments a LEFT JOIN judgments s
                ON s.query_id = a.query_id AND s.doc_id = a.doc_id AND s.split = a.split
                AND s.source = a.source)
        SELECT *, CASE
            WHEN query_id NOT IN (SELECT query_id FROM queries) THEN 'unknown_query'
            WHEN doc_id NOT IN (SELECT doc_id FROM documents) THEN 'unknown_document'
            WHEN relevance < best AND annotated THEN 'disagreement'
            WHEN relevance < best THEN 'conflicting_judgment' END AS reason
        FROM best"""
    )
    query, document = _cut("s.query_id"), _cut("s.doc_id")
    _reject(
        store,
        f"""WITH near_queries AS ({_nearest("queries", "query_id", "unknown_query")}),
            near_documents AS ({_nearest("documents", "doc_id", "unknown_document")})
        SELECT origin, line, reason, CASE reason
            WHEN 'unknown_query' THEN 'no query ''' || {query} || ''''
                || coalesce(' (there is ''' || {_cut("near_queries.id")} || ''')', '')
            WHEN 'unknown_document' THEN 'no document ''' || {document} || ''' (judged for query '''
                || {query} || coalesce('''; there is document ''' || {_cut("near_documents.id")}, '') || ''')'
            ELSE 'query ''' || {query} || ''' and document ''' || {document} || ''' have relevance '
                || relevance || ' here and ' || best || ' elsewhere; the higher counts' END
        FROM sorted_judgments s
            LEFT JOIN near_queries ON near_queries.key = {_NEAR.format("s.query_id")}
            LEFT JOIN near_documents ON near_documents.key = {_NEAR.format("s.doc_id")}
        WHERE reason IS NOT NULL ORDER BY number""",
    )


def _nearest(table: str, column: str, reason: str) -> str:
    """Returns SQL for the ids of the store that resemble those of unknown queries or documents."""
    key = _NEAR.format(column)
    unknown = f"SELECT {key} FROM sorted_judgments WHERE reason = '{reason}'"
    return f"SELECT {key} AS key, min({column}) AS id FROM {table} WHERE {key} IN ({unknown}) GROUP BY ALL"


def _padding(store: Database) -> str:
    """Returns a hint if judgments have no query because of leading zeros."""
    padded = store.rows(
        f"""SELECT 1 FROM sorted_judgments WHERE reason = 'unknown_query' AND {_UNPADDED} IN (
            SELECT {_UNPADDED} FROM queries) LIMIT 1"""
    )
    return (
        "query ids differ in leading zeros, which --set unpad_query_ids=true removes; or " if padded else ""
    )


def _cut(column: str) -> str:
    """Returns SQL that shortens an id for a message."""
    return f"CASE WHEN length({column}) > 80 THEN left({column}, 79) || '…' ELSE {column} END"


def _merge_judgments(store: Database) -> tuple[int, int]:
    """Adds new judgments and raises relevances; returns the numbers added, and already in the store."""
    keys = "query_id, doc_id, split, source"
    sound = f"SELECT DISTINCT {keys}, relevance FROM sorted_judgments WHERE reason IS NULL"
    before = _count(store, "judgments")
    store.execute(
        f"""UPDATE judgments SET relevance = a.relevance FROM ({sound}) a
        WHERE judgments.query_id = a.query_id AND judgments.doc_id = a.doc_id
            AND judgments.split = a.split AND judgments.source = a.source
            AND judgments.relevance < a.relevance"""
    )
    store.execute(
        f"""INSERT INTO judgments ({keys}, relevance)
        SELECT * FROM ({sound}) a ANTI JOIN judgments USING ({keys})"""
    )
    added = _count(store, "judgments") - before
    return added, _count(store, f"({sound})") - added


def _refuse_bad(store: Database, max_bad: float, hint: str) -> None:
    """Raises InputError, with `hint` before its own, if too large a share of the rows of a kind is bad."""
    harmless = ", ".join(f"'{reason}'" for reason in HARMLESS)
    shares = store.rows(
        f"""WITH lines AS (SELECT DISTINCT kind, origin, line FROM arriving_rows),
            bad AS (SELECT DISTINCT origin, line FROM arriving_rejected WHERE reason NOT IN ({harmless}))
        SELECT kind, count(bad.origin), count(*) FROM lines LEFT JOIN bad
            ON bad.origin = lines.origin AND bad.line IS NOT DISTINCT FROM lines.line
        GROUP BY kind ORDER BY count(bad.origin) / count(*) DESC, kind LIMIT 1"""
    )
    for kind, bad, rows in shares:
        if bad > max_bad * rows:
            rejections = [r for r in _rejections(store) if r.reason not in HARMLESS]
            reasons = ", ".join(f"{r.rows} {r.reason}" for r in rejections)
            first = "; ".join(example for r in rejections for example in r.first)
            raise InputError(
                f"{bad} of {rows} {kind} are bad ({100 * bad / rows:.3g} %, allowed: "
                f"{100 * max_bad:.3g} %), nothing was written; bad rows: {reasons}; first: {first}",
                f"{hint}correct the files, or allow more with --set max_bad=FRACTION",
            )


def _list_rejected(store: Database) -> None:
    """Adds the rejected rows to the table `rejected`, except those of an earlier ingest."""
    store.execute(
        """INSERT INTO rejected (origin, line, reason, detail)
        SELECT DISTINCT origin, line, reason, detail FROM arriving_rejected
        EXCEPT SELECT origin, line, reason, detail FROM rejected ORDER BY ALL"""
    )


def _rejections(store: Database) -> tuple[Rejection, ...]:
    rows = store.rows(
        f"""SELECT reason, count(*), list({_WHERE} || ': ' || detail ORDER BY number)[:{EXAMPLES_SHOWN}]
        FROM (SELECT *, rowid AS number FROM arriving_rejected)
        GROUP BY reason ORDER BY count(*) DESC, reason"""
    )
    return tuple(
        Rejection(reason, count, tuple(shown(example, _LONGEST_EXAMPLE) for example in first))
        for reason, count, first in rows
    )


def _identity(store: Database) -> Identity:
    ((without, other_text),) = store.rows(
        """SELECT count(*) FILTER (doc_id IS NULL),
            count(*) FILTER (q.text_key <> d.text_key AND q.text_key <> d.passage_key)
        FROM queries q LEFT JOIN document_texts d ON d.doc_id = q.query_id"""
    )
    return Identity(queries_are_documents(store), without, other_text)


def _in_several_splits(store: Database) -> int:
    ((number,),) = store.rows(
        """SELECT count(*) FROM (SELECT text_key FROM queries JOIN judgments USING (query_id)
            WHERE relevance > 0 GROUP BY text_key HAVING min(split) <> max(split))"""
    )
    return int(number)


def _splits(store: Database) -> dict[str, int]:
    rows = store.rows(
        "SELECT split, count(*) FROM judgments WHERE relevance > 0 GROUP BY split ORDER BY split"
    )
    return dict(rows)


def _count(store: Database, table: str) -> int:
    ((number,),) = store.rows(f"SELECT count(*) FROM {table}")
    return int(number)
