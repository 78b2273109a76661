"""TREC collections as they are distributed; the content of a file shows what it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from miner.errors import InputError, listed, shown
from miner.sources import markup
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.files import File, NotUtf8Error, head, lines, tree, unread
from miner.sources.id_rows import id_rows
from miner.sources.json_rows import LARGEST_OBJECT, json_objects, whole_object
from miner.sources.part import Part, Rows, Source
from miner.sources.qrels import is_judgments, judgment_layout, judgments
from miner.sources.rankings import A_RUN, JUDGED_NAME, is_run
from miner.sources.tabular import is_table
from miner.sources.training_rows import shape_of
from miner.sources.values import NotTextError, as_text

_HEAD = 1 << 16
"""Characters of a file that are examined to find out what it holds."""
_LOOKED_AT = 100
"""Most files of a folder that are examined to recognise it, and as many again by their names."""
_MOST_SHOWN = 100
"""Most files of which the summary says the keys of each."""
_FIRST = re.compile(r"^\s*<(doc|top|topics|topic|queries|query)[\s>]", re.IGNORECASE | re.MULTILINE)
_WITHIN = re.compile(r"<(doc|top|topics|topic|queries|query)[\s>]", re.IGNORECASE)
"""The same in a file that begins with other tags."""
_NUMBERS = ("num", "docno", "number", "identifier", "qid", "id", "topicid", "topic_id")
_QUERIES = ("title", "query", "question", "content", "summary", "text", "description", "desc")
"""The elements of a topic that may be its query, in order of preference."""
_ASIDE = ("narrative", "narr")
_ATTRIBUTES = ("number", "id", "qid", "num")
_DOC_IDS = ("docno", "doc_id", "pid", "docid", "_id", "id")
"""In MS MARCO's passages of 2021, `pid` is the id, and `docid` that of the document around the passage."""
_DOC_TEXTS = ("contents", "text", "body", "abstract", "passage", "segment")
_OF_PAIRS = {"query", "question", "anchor"}
"""Keys of a query: documents with one are pairs."""
_TOPIC_IDS = ("query_id", "qid", "topic_id", "number", "num", "_id", "id")
_TOPIC_TEXTS = ("query", "title", "question", "text")
_WORDS = (
    ("qrels", JUDGED_NAME),
    ("topics", r"topic|quer|question"),
    ("docs", r"doc|corpus|collection|passage"),
)
_NOUNS = {"docs": "documents", "topics": "queries"}
_JSON = ("json", "array", "object")
"""Forms of JSON: an object in each line, one array of objects, or one object. Anserini reads all of them."""
_BEFORE = {"tab": r"\S+?\t", "colon": r"[^\s:]+:", "space": r"\d+ +"}
"""What comes before the text if a line is a topic or a document: the id and a separator."""


@dataclass(frozen=True)
class _FileKind:
    """What a file holds and how to read it."""

    holds: str
    """`docs`, `topics` or `qrels`; "" for a file that is not read."""
    form: str
    """The tag of its elements, one of _JSON, `qrels`, a key of _BEFORE, or why the file is not read."""
    note: str = ""


def is_trec(source: str, path: Path) -> bool:
    """Returns whether a folder has TREC documents or topics, or a file is in one of TREC's formats.

    Some files of a large folder show it, and those whose names say what they hold.
    """
    if path.is_file():
        file = File(path, source)
        named = name_says(file)
        if is_table(file) and named != "qrels":
            return _is_anserini(file, _kind(file), named)
        return _kind(file).holds != ""
    files = tree(source, path)
    some = files[:: -(-len(files) // _LOOKED_AT) or 1]
    by_name = islice((file for file in files if name_says(file)), _LOOKED_AT)
    tables, holding = list[tuple[File, _FileKind]](), set[str]()
    for file in dict.fromkeys((*by_name, *some)):
        kind = _kind(file)
        holding.add(kind.holds)
        tagged = kind.holds and kind.form not in (*_JSON, "qrels", *_BEFORE)
        if tagged or {"docs", "topics"} <= holding:
            return True
        if is_table(file):
            tables.append((file, kind))
    return bool(tables) and all(_is_anserini(file, kind, "") for file, kind in tables)


def _is_anserini(file: File, kind: _FileKind, named: str) -> bool:
    """Returns whether a file of JSON holds documents with `contents`, or topics alone as its name says."""
    if kind.form not in _JSON:
        return False
    keys = set(_first_record(file, kind.form))
    if kind.holds == "docs":
        return "contents" in keys and not keys & _OF_PAIRS
    return kind.holds == named == "topics" and len(keys & set(_TOPIC_TEXTS)) == 1 and len(keys) == 2


def texts_in(files: Sequence[File]) -> list[File]:
    """Returns the files with documents or topics in one of TREC's layouts."""
    return [file for file in files if _kind(file).holds in ("docs", "topics")]


def open_trec(source: str, path: Path, config: SourceConfig) -> Source:
    """Returns a file of documents, topics or judgments, or a folder of such files, as a source.

    The split of a judgment is in the name of its file, else of its folder, else it is train. Raises
    InputError if nothing there is documents, topics or judgments.
    """
    found = [(file, _kind(file)) for file in tree(source, path)]
    known = [(file, kind) for file, kind in found if kind.holds]
    left = [(file, kind.form) for file, kind in found if not kind.holds]
    notes = unread(left, path if path.is_dir() else path.parent)
    if not known:
        raise InputError(
            "; ".join([f"{source}: no documents, topics or judgments of TREC", *notes]),
            "write documents in <DOC>, topics in <top> or <topic>, judgments as lines `query 0 document 1`",
        )
    splits = {file.origin: _split(file, path) for file, kind in known if kind.holds == "qrels"}
    require_splits(config, source, list(splits.values()))
    if config.split is not None:
        splits = dict.fromkeys(splits, config.split)
    notes += [f"{file.origin}: {kind.note}" for file, kind in known if kind.note]
    total = sum(file.size for file, _ in known)
    return Source(
        source, total, "bytes", _parts(source, known, splits), "\n".join(notes), read_as=_read_as(known)
    )


def _read_as(known: Sequence[tuple[File, _FileKind]]) -> str:
    """Returns what each file holds, and which keys of JSON are read."""
    by_noun: dict[str, list[str]] = {}
    for file, kind in known:
        noun = _NOUNS.get(kind.holds, "judgments")
        if kind.form in _JSON and len(known) <= _MOST_SHOWN:
            noun += f" ({_keys_read(_first_record(file, kind.form), kind.holds)})"
        by_noun.setdefault(noun, []).append(file.path.name)
    what = "; ".join(f"{noun} in {listed(names, most=5)}" for noun, names in by_noun.items())
    return f"TREC: {what}"


def _keys_read(record: dict[str, Any], holds: str) -> str:
    ids, texts = (_DOC_IDS, _DOC_TEXTS) if holds == "docs" else (_TOPIC_IDS, _TOPIC_TEXTS)
    return f"{_key(record, ids)} = id, {_key(record, texts)} = text"


def _split(file: File, path: Path) -> str:
    inside = file.path.relative_to(path).parts[:-1] if path.is_dir() else ()
    names = (file.stem, *reversed(inside))
    return next((split for name in names if (split := split_in(name))), "train")


def name_says(file: File) -> str:
    """Returns what a file holds by its name: `qrels`, `topics`, `docs`, or "" if the name does not say."""
    name = file.path.name.lower()
    return next((kind for kind, words in _WORDS if re.search(words, name)), "")


def _kind(file: File) -> _FileKind:
    """Returns what a file holds by its first lines, and by its name if these are ambiguous."""
    if file.fault:
        return _FileKind("", file.fault)
    named = name_says(file)
    try:
        first_lines = _first_lines(file)
    except InputError as error:
        if isinstance(error, NotUtf8Error) and (named or _first_tag(head(file, _HEAD), "docs")):
            raise
        return _FileKind("", error.message.removeprefix(f"{file.origin}: "))
    if not first_lines:
        return _FileKind("", "empty")
    start = "\n".join(first_lines)
    if tag := _first_tag(start, named):
        return _tagged(tag, start, named)
    if start.lstrip().startswith(("{", "[")):
        return _json(file)
    return _lines(file, first_lines[:100])


def _first_tag(text: str, named: str) -> str:
    """Returns the first TREC tag of a text that begins with a tag or whose name says it has some; else ""."""
    if text.lstrip().startswith("<"):
        found = _WITHIN.search(text)
    else:
        found = _FIRST.search(text) if named in ("docs", "topics") else None
    return found[1].lower() if found else ""


def _first_lines(file: File) -> list[str]:
    found, size = list[str](), 0
    for line in lines(file):
        if line.text.strip():
            found.append(line.text.strip("\r\n"))
        size += len(line.text)
        if size > _HEAD:
            break
    return found


def _tagged(tag: str, start: str, named: str) -> _FileKind:
    if tag == "doc" and named != "topics":
        return _FileKind("docs", "doc")
    if tag in ("topics", "queries"):
        inner = re.search(r"<(top|topic|query)[\s>]", start, re.IGNORECASE)
        tag = inner[1].lower() if inner else "topic"
    titled = re.search(r"<(title|query|question)[\s>]", start.replace(f"<{tag}", ""), re.IGNORECASE)
    return _FileKind(
        "topics", tag, "" if titled else "topics without a title: the query is the rest of their text"
    )


def _json(file: File) -> _FileKind:
    form = _json_form(file)
    try:
        record = _first_record(file, form) if form else {}
    except InputError:
        form = ""
    if not form:
        return _FileKind("", "JSON, but not one object per line, an array of objects, or an object")
    if form == "json" and judgment_layout(file) is not None:
        return _FileKind("qrels", "qrels")
    doc = _key(record, _DOC_IDS) and _key(record, _DOC_TEXTS)
    topic = _key(record, _TOPIC_IDS) and _key(record, _TOPIC_TEXTS)
    if topic and (shape_of(record) or id_rows([*record])):
        return _FileKind("", "rows with relevant documents: a table")
    if topic and (not doc or name_says(file) == "topics"):
        return _FileKind("topics", form)
    if doc:
        return _FileKind("docs", form)
    return _FileKind("", "JSON without the keys of documents (id, contents) or topics (id, query)")


def _json_form(file: File) -> str:
    """Returns one of _JSON for a file that begins with a bracket; "" for other text."""
    first = next(line.text.strip() for line in lines(file) if line.text.strip())
    if first.startswith("["):
        return "array"
    try:
        return "json" if isinstance(json.loads(first), dict) else ""
    except (ValueError, RecursionError):
        return "object" if file.size <= LARGEST_OBJECT else ""


def _first_record(file: File, form: str) -> dict[str, Any]:
    return next((record for _, _, record in _records(file, form)), {})


def _records(file: File, form: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yields the number, the size and the content of each object in a file of JSON."""
    if form == "object":
        yield 1, file.size, whole_object(file)
    else:
        yield from json_objects(file, form == "array")


def _key(record: dict[str, object], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in record), None)


def _lines(file: File, first: list[str]) -> _FileKind:
    named = name_says(file)
    if named not in ("topics", "docs") and is_judgments(file):
        return _FileKind("qrels", "qrels")
    if is_run(file):
        return _FileKind("", A_RUN)
    form = next((f for f, sign in _BEFORE.items() if all(re.match(sign, line) for line in first)), None)
    if named in ("topics", "docs") and form is not None:
        return _FileKind(named, form)
    if named == "qrels":
        return _FileKind("qrels", "qrels")
    if form == "tab" and all(len(line.split("\t")) == 2 for line in first):
        return _FileKind("", "an id and a text per line: documents or topics; name the file docs or topics")
    return _FileKind("", "no documents, topics or judgments")


def _parts(source: str, files: list[tuple[File, _FileKind]], splits: dict[str, str]) -> Iterator[Part]:
    unread_tags, unread_keys = set[str](), dict[str, None]()
    for file, kind in files:
        if kind.holds == "qrels":
            layout = judgment_layout(file)
            if layout is None:
                raise InputError(
                    f"{file.origin}: no judgments", "write `query 0 document relevance`, or leave out the 0"
                )
            yield from judgments(file, splits[file.origin], layout)
        elif kind.form in _JSON:
            yield from _json_records(file, kind, unread_keys)
        elif kind.form in _BEFORE:
            yield from _line_records(file, kind)
        else:
            yield from _tagged_elements(file, kind, unread_tags)
    if unread_keys:
        yield Part(note=f"{source}: not read: the keys {listed(map(shown, unread_keys))}")
    if unread_tags:
        yield Part(note=f"{source}: not read: the content of the tags {listed(sorted(unread_tags))}")


def _tagged_elements(file: File, kind: _FileKind, unread_tags: set[str]) -> Iterator[Part]:
    """Yields the elements of a file; adds the tags whose content is not read to `unread_tags`."""
    rows = Rows()
    for record in markup.elements(file, kind.form):
        rows.size += record.size
        if kind.holds == "docs":
            unread_tags |= _document(rows, file.origin, record)
        else:
            _topic(rows, file.origin, record, kind.form)
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _document(rows: Rows, origin: str, record: markup.Element) -> set[str]:
    """Adds a <doc>: its title, and its text without numbers, dates and codes.

    Returns the names of the tags that it left out.
    """
    content = markup.Markup(record.text)
    doc_id = content.fields(("docno",)).get("docno")
    if not doc_id:
        raise InputError(f"{origin}:{record.line}: <doc> without a <docno>", "give every document one")
    title, text = content.document()
    rows.start("documents", origin, record.line, doc_id, title, text)
    rows.document(doc_id, text, title)
    return content.unread


def _topic(rows: Rows, origin: str, record: markup.Element, tag: str) -> None:
    """Adds a topic; the query is its title, since description and narrative are for assessors."""
    found = markup.Markup(record.text).fields((*_NUMBERS, *_QUERIES, *_ASIDE))
    number = markup.attribute(record.attributes, _ATTRIBUTES) or _first(found, _NUMBERS)
    query_id = re.sub(r"^Number:\s*", "", number, flags=re.I)
    if not query_id:
        raise InputError(
            f"{origin}:{record.line}: <{tag}> without a number",
            "give every topic one: <num>, or an attribute number or id",
        )
    text = re.sub(r"^(Topic|Title|Description):\s*", "", _first(found, _QUERIES), flags=re.I)
    if not text:
        rest = markup.folded(record.text)
        text = rest.removeprefix(_first(found, _NUMBERS)).removesuffix(_first(found, _ASIDE)).strip()
    rows.start("queries", origin, record.line, query_id, text)
    rows.query(query_id, text)


def _first(found: dict[str, str], names: Sequence[str]) -> str:
    return next((found[name] for name in names if found.get(name)), "")


def _json_records(file: File, kind: _FileKind, unread_keys: dict[str, None]) -> Iterator[Part]:
    """Yields the objects of a file; adds the keys whose values are not read to `unread_keys`."""
    rows = Rows()
    ids, texts = (_DOC_IDS, _DOC_TEXTS) if kind.holds == "docs" else (_TOPIC_IDS, _TOPIC_TEXTS)
    noun = _NOUNS[kind.holds]
    for number, size, record in _records(file, kind.form):
        rows.size += size
        keys = (_key(record, ids), _key(record, texts), "title")
        rows.start(noun, file.origin, number, record)
        if keys[0] is None or keys[1] is None:
            reason, what = ("empty_text", "the text") if keys[0] else ("empty_id", "the id")
            rows.reject(reason, f"no key for {what}; its keys: {listed(record) or 'none'}")
            continue
        unread_keys.update(dict.fromkeys(key for key in record if key not in keys))
        try:
            identity, text, title = (as_text(record.get(key), key) or "" for key in keys if key)
        except NotTextError as error:
            rows.reject("not_text", str(error))
            continue
        rows.text(noun, identity, text, "" if keys[1] == "title" else title)
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _line_records(file: File, kind: _FileKind) -> Iterator[Part]:
    rows = Rows()
    sign = {"tab": "\t", "colon": ":", "space": " "}[kind.form]
    for line in lines(file):
        rows.size += line.size
        if line.text.strip():
            identity, _, text = line.text.strip("\r\n").partition(sign)
            noun = _NOUNS[kind.holds]
            rows.start(noun, file.origin, line.number, identity, text)
            rows.text(noun, identity, text.strip())
        if rows.ready:
            yield rows.part()
    yield rows.part()
