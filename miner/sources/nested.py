"""Exports whose records have texts and answers in objects of their own: Label Studio, Argilla, Vespa.

- Label Studio's JSON: `data` has the texts of a task, `annotations` have a `result` with a value for each
  control. A task gives a row for each annotation, with a column for each text and for each control.
- Argilla's records (`dataset.records.to_json` of argilla 2): `fields` has the texts, `responses` a list of
  values for each question. A record gives a row for each person. Suggestions are not answers, so they are
  not read.
- Vespa's feed: `put` (or `id`, in what `vespa visit` writes) has the id of a document, `fields` its texts.

The rows are a table like any other, so its options apply. Tasks that nobody answered are left out and
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any, NamedTuple

from miner.errors import InputError, shown
from miner.sources.config import NO_COLUMN, SourceConfig, split_in
from miner.sources.files import File, files_in, first_files, head, tree, unread
from miner.sources.json_rows import json_objects
from miner.sources.layouts import find_layout
from miner.sources.part import Source
from miner.sources.table import LIST, OBJECT, Record, Table, text_record
from miner.sources.tabular import from_tables

_UNANSWERED = ("unanswered", "nobody answered it")


class Flat(NamedTuple):
    """A row: its values by column, what people answered, and the problem if it cannot be used."""

    values: dict[str, Any]
    answers: Mapping[str, Any] = MappingProxyType({})
    problem: tuple[str, str] | None = None
    """Reason and detail."""


@dataclass(frozen=True)
class NestedFormat:
    """One kind of export."""

    format: str
    called: str
    is_one: Callable[[dict[str, Any]], bool]
    """Whether a record belongs to such an export."""
    rows: Callable[[dict[str, Any]], list[Flat]]
    annotated: bool
    """Whether its records have answers of people, who may disagree."""

    def fits(self, source: str, path: Path) -> bool:
        """Returns whether a file, or a file of a folder, begins with such a record."""
        return any(self.begins(file) for file in first_files(source, path))

    def begins(self, file: File) -> bool:
        """Returns whether a file begins with such a record."""
        if file.suffix not in (".json", ".jsonl", ".ndjson"):
            return False
        try:
            first = next(json_objects(file, _is_array(file)), None)
        except InputError:
            return False
        return first is not None and self.is_one(first.record)

    def open(self, source: str, path: Path, config: SourceConfig) -> Source:
        """Returns a file, or the files of a folder, as a source; the split is in the name of the file.

        Raises InputError if nothing there is such an export, and what `tabular.from_tables` raises.
        """
        files = [file for file in files_in(source, path) if self.begins(file)]
        if not files:
            raise InputError(f"{source}: not {self.called}", "name the .json or .jsonl file of the export")
        tables = [(self._table(file), split_in(file.stem)) for file in files]
        left = [(file, f"not {self.called}") for file in tree(source, path) if file not in files]
        notes = unread(left, path) if path.is_dir() else []
        config = replace(config, format="auto")
        opened = from_tables(source, tables, config, notes)
        for file, (table, _) in zip(files, tables, strict=True):
            if config.relevance_column is None and find_layout(table, config).kind in ("pairs", "triplets"):
                self._require_no_answers(file)
        return replace(opened, read_as=f"{self.called}, {opened.read_as}", annotated=self.annotated)

    def _table(self, file: File) -> Table:
        """Returns the rows of a file; reads it once from end to end for the names of the columns."""
        columns, nested = dict[str, None](), dict[str, str]()
        for _, row in self._flat(file):
            for name, value in {**row.values, **row.answers}.items():
                columns[name] = None
                if isinstance(value, dict | list):
                    nested[name] = OBJECT if isinstance(value, dict) else LIST

        def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
            for (number, size), row in self._flat(file):
                if row.problem is not None:
                    yield Record(number, size, (), (), row.problem)
                    continue
                values = {**row.values, **row.answers}
                single, several = ([values.get(name) for name in names] for names in (texts, passages))
                yield text_record(number, size, (single, texts), (several, passages))

        return Table(file.origin, tuple(columns), file.size, "bytes", _read, nested)

    def _require_no_answers(self, file: File) -> None:
        """Raises InputError if people answered a question: without an option every pair is a positive."""
        for _, row in self._flat(file):
            for name, value in row.answers.items():
                raise InputError(
                    f"{file.origin}: people answered '{shown(name)}' (with values such as {shown(value)}), "
                    "and no option mentions it: every pair would be a positive",
                    f"to read it as relevance: --relevance-column {quote(name)}, and --relevance-map "
                    f"VALUE=NUMBER,… for words; if every pair is a positive: --relevance-column {NO_COLUMN}",
                )

    def _flat(self, file: File) -> Iterator[tuple[tuple[int, int], Flat]]:
        other = Flat({}, problem=("not_a_record", f"not a record of {self.called}"))
        for number, size, record in json_objects(file, _is_array(file)):
            for row in self.rows(record) if self.is_one(record) else [other]:
                yield (number, size), row
                size = 0


def _is_array(file: File) -> bool:
    return head(file, 4096).lstrip("\xef\xbb\xbf \r\n\t").startswith("[")


def _is_task(record: dict[str, Any]) -> bool:
    answers = record.get("annotations", record.get("completions"))
    return isinstance(record.get("data"), dict) and isinstance(answers, list)


def _task_rows(record: dict[str, Any]) -> list[Flat]:
    annotations = record.get("annotations", record.get("completions", []))
    found: list[Flat] = []
    for annotation in annotations:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled") is True:
            continue
        results = annotation.get("result")
        answers = {
            str(result["from_name"]): _answer(result)
            for result in (results if isinstance(results, list) else [])
            if isinstance(result, dict) and "from_name" in result
        }
        if answers:
            found.append(Flat(record["data"], answers))
    return found or [Flat(record["data"], problem=_UNANSWERED)]


def _answer(result: dict[str, Any]) -> Any:
    """Returns the value of one control: a choice, a rating, a number, a text; several choices as a list."""
    value = result.get("value")
    kind = {"textarea": "text", "pairwise": "selected"}.get(str(result.get("type")), str(result.get("type")))
    found = value.get(kind) if isinstance(value, dict) else value
    return found[0] if isinstance(found, list) and len(found) == 1 else found


def _is_record(record: dict[str, Any]) -> bool:
    return isinstance(record.get("fields"), dict) and isinstance(record.get("responses"), dict)


def _record_rows(record: dict[str, Any]) -> list[Flat]:
    metadata = record.get("metadata")
    known = (metadata if isinstance(metadata, dict) else {}) | record["fields"]
    people: dict[str, dict[str, Any]] = {}
    for question, responses in record["responses"].items():
        for response in responses if isinstance(responses, list) else []:
            if isinstance(response, dict) and response.get("value") is not None:
                people.setdefault(str(response.get("user_id")), {})[question] = response["value"]
    found = [Flat(known, answers) for answers in people.values()]
    return found or [Flat(known, problem=_UNANSWERED)]


def _is_operation(record: dict[str, Any]) -> bool:
    named = [record[key] for key in ("put", "update", "remove", "id") if key in record]
    return bool(named) and str(named[0]).startswith("id:") and "responses" not in record


def _operation_rows(record: dict[str, Any]) -> list[Flat]:
    for key in ("update", "remove"):
        if key in record:
            return [Flat({}, problem=("not_put", f"{shown(record[key])}: {key}, not a whole document"))]
    fields = record.get("fields")
    if not isinstance(fields, dict):
        return [Flat({}, problem=("not_put", "no object 'fields'"))]
    # id:NAMESPACE:TYPE:KEYS:NAME, where the name may have colons
    name = str(record.get("put", record.get("id"))).split(":", 4)[-1]
    return [Flat({"doc_id": name} | fields)]


NESTED = (
    NestedFormat("label-studio", "an export of Label Studio", _is_task, _task_rows, annotated=True),
    NestedFormat("argilla", "records of Argilla", _is_record, _record_rows, annotated=True),
    NestedFormat("vespa", "a feed of Vespa", _is_operation, _operation_rows, annotated=False),
)
