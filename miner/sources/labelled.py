"""Labelled texts (intent, topic, sentiment): texts with the same label are positives of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from miner.sources.config import SourceConfig
from miner.sources.part import Part, Rows
from miner.sources.table import Record, Table
from miner.store.division import Division, require_undivided
from miner.text import clean, content_id, fingerprint, text_key

_Groups = dict[tuple[str, str], dict[str, int]]
"""Per split and label: the texts, as content hash and text key."""


def label_parts(tables: Sequence[tuple[Table, str]], config: SourceConfig) -> Iterator[Part]:
    """Yields labelled texts as queries and documents, and a sample of positives for each.

    The label itself keeps all of its texts from the negatives, so the judgments need only
    `positives_per_query` texts of the same label and split: their number grows with the number of texts, not
    with its square. `dev` and `test` divide the texts before the positives are drawn.
    """
    rows, labels, groups = Rows(), dict[str, str](), _Groups()
    columns = (config.text_column, config.label_column)
    for table, split in tables:
        for record in table.read(columns):
            rows.size += record.size
            rows.start("texts", table.origin, record.line, *record.content, split)
            _take(rows, record, labels, groups, split)
            if rows.ready:
                yield rows.part()
    origins = ", ".join(table.origin for table, _ in tables)
    if config.division is not None:
        groups = _divided(groups, config.division, origins)
    rows.at(origins)
    for split, label in sorted(groups):
        for query_id, doc_id in _sample(groups[split, label], (split, label), config):
            rows.judgment(query_id, doc_id, split)
            if rows.ready:
                yield rows.part()
    yield rows.part()


def _divided(groups: _Groups, division: Division, origins: str) -> _Groups:
    """Returns the groups with their texts divided into splits, so that no positive is in another split."""
    if not groups:
        return groups
    split = require_undivided({split for split, _ in groups}, origins)
    splits = division.assign({key for texts in groups.values() for key in texts.values()}, split)
    found = _Groups()
    for (_, label), texts in groups.items():
        for content, key in texts.items():
            found.setdefault((splits[key], label), {})[content] = key
    return found


def _take(rows: Rows, record: Record, labels: dict[str, str], groups: _Groups, split: str) -> None:
    """Adds a text as query and document; rejects it if it is empty or has two labels."""
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
    """Yields (query_id, doc_id) for every text of a group and the positives drawn for it.

    A seeded shuffle puts the distinct texts in a circle; the positives of a text are those a few seeded steps
    further. So each text is a positive equally often, never its own, and the order of the rows does not
    matter.
    """
    documents = {members[content]: content for content in sorted(members, reverse=True)}
    circle = np.array(sorted(documents), dtype=np.int64)
    rng = np.random.default_rng(int(fingerprint([config.seed, *group])[:16], 16))
    rng.shuffle(circle)
    size = len(circle)
    steps = rng.choice(size - 1, min(config.positives_per_query, size - 1), replace=False) + 1
    positions = {key: position for position, key in enumerate(circle.tolist())}
    for content in sorted(members):
        for step in steps.tolist():
            other = int(circle[(positions[members[content]] + step) % size])
            yield f"q-{content}", f"d-{documents[other]}"
