"""A data set of ids: texts once in `queries` and `documents`, and rows that refer to them.

sentence-transformers' `resolve_ids` puts the texts in place of the ids while it trains. It derives the names:
`query_id` becomes `query`, `document_ids` becomes `document_1` … `document_n` or the list `documents`. Names
of configs and columns are those of public sets: `triplet` and `triplet-hard` as sentence-transformers
publishes them, `queries`, `documents` and their columns as LightOn does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from miner.export.formats import Format, Shape
from miner.export.groups import both, column, lists, pairs_with, score_lists, starts
from miner.export.training import targets
from miner.store import exported
from miner.store.database import Database

QUERIES, DOCUMENTS, TITLES, QRELS = "queries", "documents", "titles", "qrels"
TRIPLET, TRIPLET_HARD, SCORED = "triplet", "triplet-hard", "scored"
LABELED_LIST, SCORED_LIST = "labeled-list", "scored-list"
TRAIN = "train"
"""The split of `queries` and `documents`, which have those of all splits: `datasets` needs a name."""


def triplet(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query_id, positive_id, negative_id: each (query, positive) with its hardest negative."""
    return _triplets(table.take(pa.array(pairs_with(table, 1))))


def triplet_hard(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query_id, positive_id, negative_id: a row for every negative."""
    return _triplets(table)


def _triplets(table: pa.Table) -> pa.Table:
    return table.select(["query_id", "positive_id", "negative_id"])


def scored(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query_id, document_ids, scores: a positive, then its negatives, the hardest first.

    All lists have 1 + n entries; pairs with fewer than n negatives are left out.
    """
    first = pairs_with(table, shape.negatives)
    count = shape.negatives
    ids = [column(table, "positive_id").take(pa.array(first))]
    ids += [column(table, "negative_id").take(pa.array(first + i)) for i in range(count)]
    by_row = np.arange(len(first) * (count + 1)).reshape(count + 1, len(first)).T.ravel()
    return pa.table(
        {
            "query_id": column(table, "query_id").take(pa.array(first)),
            "document_ids": lists(
                pa.concat_arrays(ids).take(pa.array(by_row)), np.arange(len(first) + 1) * (count + 1)
            ),
            "scores": score_lists(table, first, count),
        }
    )


def labeled_list(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query_id, document_ids, labels: all positives of a query, then its negatives (0)."""
    return _list(table, replace(shape, scores=False), "labels")


def scored_list(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query_id, document_ids, scores: all positives of a query, then its negatives."""
    return _list(table, replace(shape, scores=True), "scores")


def _list(table: pa.Table, shape: Shape, target: str) -> pa.Table:
    found = both(table)
    ids = found.of(column(table, "positive_id"), column(table, "negative_id"))
    return pa.table(
        {
            "query_id": column(table, "query_id").take(pa.array(starts(table, "query_id"))),
            "document_ids": lists(ids, found.offsets),
            target: lists(targets(table, shape, found), found.offsets),
        }
    )


TEXTS = {
    QUERIES: pa.schema([("query_id", pa.string()), ("text", pa.string())]),
    DOCUMENTS: pa.schema([("document_id", pa.string()), ("text", pa.string())]),
}
"""The columns of the configs with texts."""
TITLED = pa.schema([("document_id", pa.string()), ("title", pa.string())])
"""The columns of `titles`: `resolve_ids` allows `documents` no third column."""
JUDGED = pa.schema([("query_id", pa.string()), ("document_id", pa.string()), ("score", pa.float64())])
"""The columns of `qrels`."""


def texts(store: Database, config: str) -> Iterator[pa.Table]:
    """Yields all queries or all documents of a store, the title of a document before its text."""
    read = exported.query_texts if config == QUERIES else exported.document_texts
    return (table.cast(TEXTS[config]) for table in read(store))


def titles(store: Database) -> Iterator[pa.Table]:
    """Yields the titles of documents, in the order of the documents: what an ingest divides texts by."""
    return (table.cast(TITLED) for table in exported.titles(store))


def qrels(store: Database, split: str) -> Iterator[pa.Table]:
    """Yields the judgments of a split: query_id, document_id, score (the relevance)."""
    return (table.cast(JUDGED) for table in exported.judged(store, split))


_LOADING = """Texts are in `queries` and `documents`; the other configs refer to them by id. `resolve_ids` of
sentence-transformers 6.2 puts them in place while it trains, so that each text is stored once:

```python
from datasets import load_dataset
from sentence_transformers.util import resolve_ids

queries = load_dataset("PATH", "queries", split="train")
documents = load_dataset("PATH", "documents", split="train")


def rows(config, *ids, **how):
    data = load_dataset("PATH", config, split="{split}")
    found = {{name: queries if name == "query_id" else documents for name in ids}}
    data.set_transform(resolve_ids(found, **how))
    return data
```

| train | on |
| --- | --- |
| `SentenceTransformer`, `SparseEncoder` or `MultiVectorEncoder` with its \
`MultipleNegativesRankingLoss` | \
`rows("triplet-hard", "query_id", "positive_id", "negative_id")` |
| the same with `MarginMSELoss` or `DistillKLDivLoss` | `rows("scored", "query_id", "document_ids")` |
| `CrossEncoder` with `LambdaLoss` | \
`rows("labeled-list", "query_id", "document_ids", output_format="lists")` |
| `CrossEncoder` with `ListNetLoss` or `ADRMSELoss`, on scores | \
`rows("scored-list", "query_id", "document_ids", output_format="lists")` |
| `CrossEncoder` with `MarginMSELoss` | `rows("scored", "query_id", "document_ids")` |

Losses of the other encoders have longer names: `SparseMarginMSELoss`,
`MultiVectorMarginMSELoss`."""

FORMATS = {
    "ids": Format(
        "Ids of a query, its positives and its mined negatives; `queries` and `documents` have the texts.",
        triplet_hard,
        _LOADING,
        _LOADING,
        ("feature-extraction", "sentence-similarity", "text-ranking"),
        ("parquet",),
        scores=False,
        labels=True,
        full_rows=SCORED,
        selections={
            TRIPLET: triplet,
            TRIPLET_HARD: triplet_hard,
            SCORED: scored,
            LABELED_LIST: labeled_list,
            SCORED_LIST: scored_list,
        },
    )
}
"""The formats of this family by name."""
MEANINGS = {
    QUERIES: "every query: its id and text",
    DOCUMENTS: "every document: its id and text, the title before it",
    TITLES: "a document that has a title: its id and the title, which its text begins with",
    QRELS: "the judgments: the relevance of a document to a query",
    TRIPLET: "each positive with its hardest negative",
    TRIPLET_HARD: "each positive with each of its negatives, a row per negative",
    SCORED: "a positive, then its negatives, with the scores that decided; lists of equal length",
    LABELED_LIST: "all positives of a query, then its negatives, with labels",
    SCORED_LIST: "all positives of a query, then its negatives, with the scores that decided",
}
"""What a row of each config is."""
