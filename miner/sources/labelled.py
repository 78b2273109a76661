"""Texts with labels: texts of the same label are each other's positives (intent, topic, sentiment)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from miner.sources.config import SourceConfig
from miner.sources.part import Part, Rows
from miner.sources.table import Record, Table
from miner.text import clean, content_id, fingerprint, text_key

_Groups = dict[tuple[str, str], dict[str, int]]
"""Per split and label: the texts, as content hash and text key."""


def label_parts(tables: Sequence[tuple[Table, str]], config: SourceConfig) -> Iterator[Part]:
    """Yields labelled texts as queries and documents, and a sample of positives for each.

    All texts of a label are kept from being negatives by their label, so the judgments hold only
    `positives_per_query` texts of the same label and split: their number grows with the texts,
    not with their square.
    """
    rows, labels, groups = Rows(), dict[str, str](), _Groups()
    columns = (config.text_column, config.label_column)
    for table, split in tables:
        for record in table.read(columns, (), columns):
            rows.size += record.size
            rows.start("texts", table.origin, record.line, *record.content, split)
            _take(rows, record, labels, groups, split)
            if rows.full:
                yield rows.part()
    rows.at(", ".join(table.origin for table, _ in tables))
    for split, label in sorted(groups):
        for query_id, doc_id in _sample(groups[split, label], (split, label), config):
            rows.judgment(query_id, doc_id, split)
            if rows.full:
                yield rows.part()
    yield rows.part()


def _take(rows: Rows, record: Record, labels: dict[str, str], groups: _Groups, split: str) -> None:
    """Adds a text as query and document, unless it is empty or had another label before."""
    if record.problem is not None:
        rows.reject(*record.problem)
        return
    text, label = (value or "" for value in record.values)
    key = text_key(clean(text)[0])
    content = content_id("", text)
    if key == 0:
        rows.reject("empty_text", "the text is empty")
    elif not label.strip():
        rows.reject("empty_label", "the label is empty")
    elif labels.setdefault(content, label) != label:
        rows.reject(
            "conflicting_label", f"'{label}' here, '{labels[content]}' in an earlier row of this text"
        )
    else:
        rows.query(f"q-{content}", text, label)
        rows.document(f"d-{content}", text, label=label)
        groups.setdefault((split, label), {})[content] = key


def _sample(
    members: dict[str, int], group: tuple[str, str], config: SourceConfig
) -> Iterator[tuple[str, str]]:
    """Yields (query_id, doc_id) for every text of a group with the positives drawn for it.

    The distinct texts stand in a seeded circle; a text's positives are those a few seeded steps
    further on. So each text is a positive equally often, none is its own, and the draw does not
    depend on the order of the rows.
    """
    documents = {members[content]: content for content in sorted(members, reverse=True)}
    circle = np.array(sorted(documents), dtype=np.int64)
    rng = np.random.default_rng(int(fingerprint([config.seed, *group])[:16], 16))
    rng.shuffle(circle)
    size = len(circle)
    steps = rng.choice(size - 1, min(config.positives_per_query, size - 1), replace=False) + 1
    places = {key: place for place, key in enumerate(circle.tolist())}
    for content in sorted(members):
        for step in steps.tolist():
            other = int(circle[(places[members[content]] + step) % size])
            yield f"q-{content}", f"d-{documents[other]}"
