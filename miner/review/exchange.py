"""Answers as files: CSV, which can be read back, and what Argilla and Label Studio import.

Argilla reads a list of records (`dataset.records.from_json`): id, fields, metadata, suggestions by question.
Label Studio reads a list of tasks: data, and predictions with a result. Answers go along as suggestions and
predictions, because annotations need accounts of those tools.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from miner.auditing.sample_file import open_labels, written_id, written_text
from miner.engine.files import locked, replacing, require_file
from miner.errors import InputError, UsageError, counted, listed, shown
from miner.reporting.readable import Readable
from miner.review.queue import Queue, QueueConfig
from miner.review.session import reviewer_name
from miner.review.summary import group_of
from miner.sources.values import as_number
from miner.store import reviews as stored
from miner.store.database import Database
from miner.store.evidence import positive_pairs
from miner.store.reviews import ANSWERS, CHOSEN, Press
from miner.store.runs import StoredRun

CSV, ARGILLA, LABEL_STUDIO = ".csv", ".argilla.json", ".label-studio.json"
FORMATS = (CSV, ARGILLA, LABEL_STUDIO)
"""The formats, as the name of a file ends."""
COLUMNS = (
    "query_id", "doc_id", "query", "title", "document", "answer", "reviewer", "group", "seconds", "answered",
)  # fmt: skip
"""The columns of the CSV file: a row per answer, and one without an answer for a pair that has none."""
_READ = ("query_id", "doc_id", "answer")
_BLOCK = 2_000
"""Pairs whose texts are read at once."""
_POSITIVES = 5
"""Positives of a query that a record of Argilla or Label Studio shows."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class _Entry:
    """A pair with its texts and its answers."""

    query_id: str
    doc_id: str
    group: str
    query: str
    title: str
    document: str
    answers: list[dict[str, Any]]

    @property
    def majority(self) -> str | None:
        """RELEVANT or NOT_RELEVANT if more reviewers say so than the opposite."""
        return stored.majority_of([one["answer"] for one in self.answers])


def export_reviews(store: Database, run: StoredRun, config: QueueConfig, out: Path) -> tuple[int, int]:
    """Writes the pairs to review with all answers to a new file; returns how many of both.

    The name ends in one of FORMATS. CSV also has the answers to pairs that are not in the queue. Raises
    UsageError for another name, an existing file, or a run with no pairs.
    """
    require_file(out)
    kind = next((one for one in FORMATS if out.name.endswith(one)), None)
    if kind is None:
        raise UsageError(f"answers cannot be written to {out}", f"end its name in {listed(FORMATS, ' or ')}")
    if out.exists():
        raise UsageError(f"{out} exists", "name another file, or remove it")
    queue = Queue.of(store, run, config)
    answers: dict[Pair, list[dict[str, Any]]] = {}
    for row in stored.answers(store).to_pylist():
        answers.setdefault((row["query_id"], row["doc_id"]), []).append(row)
    pairs = [queue.pair(at) for at in range(len(queue))]
    groups = [group_of(queue, at) for at in range(len(queue))]
    if kind == CSV:
        others = [pair for pair in answers if pair not in queue.positions]
        pairs, groups = pairs + others, groups + [""] * len(others)
    entries = _entries(store, pairs, groups, answers)
    writing: Callable[[IO[str]], None]
    if kind == CSV:
        writing = lambda file: _write_csv(file, entries)  # noqa: E731
    else:
        context = _positives(store, run)
        shape = _record if kind == ARGILLA else _task
        writing = lambda file: _write_json(file, (shape(one, context(one.query_id)) for one in entries))  # noqa: E731
    encoding = "utf-8-sig" if kind == CSV else "utf-8"
    with (
        locked(out),
        replacing(out, exists_ok=False) as partial,
        partial.open("w", newline="", encoding=encoding) as file,
    ):
        writing(file)
    return len(pairs), sum(len(answers.get(pair, ())) for pair in pairs)


def _entries(
    store: Database, pairs: list[Pair], groups: list[str], answers: Mapping[Pair, list[dict[str, Any]]]
) -> Iterator[_Entry]:
    for start in range(0, len(pairs), _BLOCK):
        block = pairs[start : start + _BLOCK]
        texts = stored.pair_texts(store, block)
        for pair, group, text in zip(block, groups[start:], texts, strict=False):
            yield _Entry(*pair, group, *text, answers.get(pair, []))


def _write_csv(file: IO[str], entries: Iterator[_Entry]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in entries:
        texts = map(written_text, (one.query, one.title, one.document))
        own = [written_id(one.query_id), written_id(one.doc_id), *texts]
        for row in one.answers or [{}]:
            answered = row["answered"].isoformat(sep=" ", timespec="seconds") if row else ""
            seconds = f"{row['seconds']:.1f}" if row else ""
            reviewer = written_text(row.get("reviewer", ""))
            writer.writerow([*own, row.get("answer", ""), reviewer, one.group, seconds, answered])


def _write_json(file: IO[str], values: Iterator[dict[str, Any]]) -> None:
    """Writes a list with a value per line."""
    file.write("[")
    for number, value in enumerate(values):
        file.write(",\n" if number else "\n")
        file.write(json.dumps(value, ensure_ascii=False))
    file.write("\n]\n")


def _positives(store: Database, run: StoredRun) -> Callable[[str], str]:
    """Returns a function from a query to the texts of its first positives, which reads them when needed."""
    table = positive_pairs(store, run.evidence)
    ids: dict[str, list[str]] = {}
    for query_id, doc_id in zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True):
        ids.setdefault(query_id, []).append(doc_id)
    known: dict[str, str] = {}

    def _text(query_id: str) -> str:
        if query_id not in known:
            first = sorted(ids.get(query_id, []))[:_POSITIVES]
            texts = stored.pair_texts(store, [(query_id, doc_id) for doc_id in first])
            known[query_id] = "\n\n".join("\n".join(filter(None, text[1:])) for text in texts)
        return known[query_id]

    return _text


def _record(one: _Entry, positives: str) -> dict[str, Any]:
    """Returns a record of Argilla, for the question `relevance` with the labels of ANSWERS."""
    suggestions = {}
    if one.majority is not None:
        agent = ", ".join(sorted(row["reviewer"] for row in one.answers))
        suggestions["relevance"] = {"value": one.majority, "score": None, "agent": agent}
    return {
        "id": json.dumps([one.query_id, one.doc_id], ensure_ascii=False),
        "fields": {"query": one.query, "positives": positives, "candidate": _whole(one)},
        "metadata": {"query_id": one.query_id, "doc_id": one.doc_id, "group": one.group},
        "suggestions": suggestions,
        "responses": {},
        "vectors": {},
    }


def _task(one: _Entry, positives: str) -> dict[str, Any]:
    """Returns a task of Label Studio, for <Choices name="relevance" toName="candidate">."""
    return {
        "data": {
            "query_id": one.query_id,
            "doc_id": one.doc_id,
            "group": one.group,
            "query": one.query,
            "positives": positives,
            "candidate": _whole(one),
        },
        "predictions": [
            {
                "model_version": row["reviewer"],
                "result": [
                    {
                        "from_name": "relevance",
                        "to_name": "candidate",
                        "type": "choices",
                        "value": {"choices": [row["answer"]]},
                    }
                ],
            }
            for row in one.answers
        ],
    }


def _whole(one: _Entry) -> str:
    return "\n".join(filter(None, (one.title, one.document)))


@dataclass(frozen=True)
class ReviewImport(Readable):
    """What an import of answers did."""

    added: int
    unchanged: int
    """Rows whose answer is the current one already."""
    empty: int
    """Rows without an answer."""

    def as_text(self) -> str:
        """Returns the counts in one line."""
        return (
            f"{counted(self.added, 'answer')} added, {self.unchanged:,} known already, "
            f"{counted(self.empty, 'row')} without an answer"
        )


def import_reviews(
    store: Database, run: StoredRun, source: Path | Any, reviewer: str | None = None,
    config: QueueConfig | None = None,
) -> ReviewImport:  # fmt: skip
    """Reads answers from a .csv or .tsv file, or a table, and adds those that are new.

    Columns query_id, doc_id and answer (see ANSWERS); a column `reviewer` says whose they are, and `seconds`
    how long each took. `reviewer` is whose the rows without a name are. Raises UsageError without a reviewer,
    and InputError for a wrong row; the store is then unchanged.
    """
    table = open_labels(source)
    columns = {name.strip().lower(): name for name in table.columns}
    if missing := [name for name in _READ if name not in columns]:
        raise InputError(
            f"{table.origin}: no column {listed(missing)}; its columns: {table.listed}",
            "give a file as miner review --export writes it",
        )
    if reviewer is None and "reviewer" not in columns:
        raise UsageError(f"{table.origin} does not say whose answers they are", "name them with --reviewer")
    person = None if reviewer is None else reviewer_name(reviewer)
    read = [*_READ, *(name for name in ("reviewer", "seconds") if name in columns)]
    written = table.unit == "bytes"
    rows: dict[tuple[str, str, str], tuple[str, float, str]] = {}
    empty = 0
    for record in table.read([columns[name] for name in read]):
        where = f"{table.origin}:{record.line}"
        if record.problem is not None:
            raise InputError(f"{where}: {record.problem[1]}", "mend the row")
        values = {name: (value or "").strip() for name, value in zip(read, record.values, strict=True)}
        answer = values["answer"].lower().replace("_", " ")
        if not answer:
            empty += 1
            continue
        if answer not in ANSWERS:
            raise InputError(f"{where}: unknown answer '{shown(answer)}'", f"write {listed(ANSWERS)}")
        query_id, doc_id = (
            _own(values[name]) if written else values[name] for name in ("query_id", "doc_id")
        )
        name = _reviewer_in(where, values.get("reviewer", "") or person or "")
        before = rows.setdefault(
            (name, query_id, doc_id), (answer, as_number(values.get("seconds", "")) or 0, where)
        )
        if before[0] != answer:
            raise InputError(f"{where}: this pair has another answer in {before[2]}", "leave one of the rows")
    return _add(store, run, config or QueueConfig(), rows, empty)


def _own(identity: str) -> str:
    """Returns an id as the store has it, from one that `written_id` wrote."""
    bare = identity.removeprefix("'")
    return bare if bare != identity and written_id(bare) == identity else identity


def _reviewer_in(where: str, name: str) -> str:
    try:
        return reviewer_name(_own(name))
    except UsageError as error:
        raise InputError(f"{where}: {error.message}", "fill in the column, or give --reviewer") from error


def _add(
    store: Database, run: StoredRun, config: QueueConfig,
    rows: Mapping[tuple[str, str, str], tuple[str, float, str]], empty: int,
) -> ReviewImport:  # fmt: skip
    known = stored.known_pairs(store, [(query, doc) for _, query, doc in rows])
    for (_, query, doc), (_, _, where) in rows.items():
        if (query, doc) not in known:
            raise InputError(
                f"{where}: query '{shown(query)}' or document '{shown(doc)}' is not in the store",
                "a spreadsheet may have changed ids that look like numbers: import the columns as text",
            )
    current = {
        (row["reviewer"], row["query_id"], row["doc_id"]): row["answer"]
        for row in stored.answers(store).to_pylist()
    }
    queue = Queue.of(store, run, config)
    presses = []
    for (name, query, doc), (answer, seconds, _) in rows.items():
        if current.get((name, query, doc)) == answer:
            continue
        at = queue.positions.get((query, doc))
        stratum = CHOSEN if at is None else queue.strata[at]
        presses.append(Press(query, doc, answer, name, stratum, float(max(0.0, seconds))))
    if presses:
        stored.add_presses(store, run, presses)
    return ReviewImport(len(presses), len(rows) - len(presses), empty)
