"""Recognises runs: lines that rank or score documents for queries, which nobody judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from shlex import quote

import numpy as np
import numpy.typing as npt

from miner.errors import InputError
from miner.sources.files import File, lines
from miner.sources.values import as_number

RUN = ("query", "Q0", "document", "rank", "score", "name")
"""The fields of a line of a TREC run."""
PLAIN_RUN = ("query", "document", "score")
"""The fields of a line of a run of MS MARCO, or of Tevatron (its commit 1b4163e):
`tevatron.retriever.driver.search --save_text`."""
QUERY = ("query-id", "query_id", "queryid", "qid", "query", "topic", "topic_id", "topicid")
DOCUMENT = (
    "corpus-id", "corpus_id", "corpusid", "doc-id", "doc_id", "docid", "docno", "document-id", "document_id",
    "document", "doc", "pid", "passage_id",
)  # fmt: skip
"""Names of columns of ids."""
RANK = ("rank", "position")
"""Names of a column of ranks."""
SCORE = ("score", "similarity", "relevance_score")
"""Names of a column of scores."""
A_RUN = "a run: ranked documents, no judgments"
"""Why a run in a folder is not read."""
JUDGED_NAME = r"qrel|judg"
"""What the name of a file of judgments contains."""
_RUN_NAME = re.compile(r"(?:runs?|top)(?![a-z])|.*\.run(?:\.gz)?$", re.IGNORECASE)
"""The name of a run, such as run.dev.small.tsv, top1000.dev or bm25.run; not topics.txt."""
_OTHERS = (".json", ".jsonl", ".ndjson", ".parquet")
_LOOKED_AT = 100_000
"""Lines that are examined at most, since a run that is sorted by rank begins with a rank of 1 per query."""
_LEAST_RANKS = 3
_LEAST_QUERIES = 10


def is_run(file: File) -> bool:
    """Returns whether a text file is a run: six fields as TREC's, or three, or a header with a rank or score.

    Three fields are a run if the name of the file says so, if the third has fractions in several lines, or if
    it counts 1, 2, 3 (or 0, 1, 2) and so on for every query. A name with `qrel` means judgments.
    """
    if file.fault or file.suffix in _OTHERS:
        return False
    rows, names = list[list[str]](), list[str]()
    try:
        for line in islice(lines(file), _LOOKED_AT):
            fields = line.text.split()
            if not rows and not names and len(fields) >= len(PLAIN_RUN) and number_in(fields) is not None:
                names = fields
            elif fields:
                if len(fields) != len((rows or [names or fields])[0]) or not _may_be_run(fields, names):
                    return False
                rows.append(fields)
    except InputError:
        return False  # whoever reads the file reports it
    at = number_in(names)
    if (
        not rows
        or (at is None and len(rows[0]) == len(RUN))
        or (at is not None and names[at].lower() in RANK)
    ):
        return bool(rows)
    if re.search(JUDGED_NAME, file.path.name.lower()):
        return False
    values = np.array([as_number(row[2 if at is None else at]) for row in rows], dtype=np.float64)
    fractions = bool((values != np.floor(values)).any())
    if at is not None:
        return fractions
    return (
        (fractions and len(rows) > 1)
        or _RUN_NAME.match(file.path.name) is not None
        or _is_ranking(rows, values)
    )


def number_in(names: Sequence[str]) -> int | None:
    """Returns the position of the rank in the header of a run, else that of its score; None without any."""
    lower = [name.lower() for name in names]
    if not all(any(name in known for name in lower) for known in (QUERY, DOCUMENT)):
        return None
    return next((at for known in (RANK, SCORE) for at, name in enumerate(lower) if name in known), None)


def _may_be_run(fields: Sequence[str], names: Sequence[str]) -> bool:
    """Returns whether the fields of a line fit a run, which may have a header of these names."""
    if (at := number_in(names)) is not None:
        return as_number(fields[at]) is not None
    if len(fields) == len(RUN):
        return is_trec_line(fields)
    return len(fields) == len(PLAIN_RUN) and as_number(fields[2]) is not None


def is_trec_line(fields: Sequence[str]) -> bool:
    """Returns whether the fields of a line are those of a TREC run, also if its rank or its score is bad."""
    if len(fields) != len(RUN):
        return False
    sound = [as_number(fields[at]) is not None for at in (3, 4)]
    return all(sound) or (any(sound) and fields[1].upper() == "Q0")


def _is_ranking(rows: Sequence[Sequence[str]], values: npt.NDArray[np.float64]) -> bool:
    """Returns whether the third fields are ranks, not relevances.

    They are if they count up for every query, once to 3 at least, or if they do so in any order from 1 for
    many queries: a query may have one document of each grade, but not all queries have.
    """
    queries = np.unique([row[0] for row in rows], return_inverse=True)[1].astype(np.int32)
    if not are_ranks(queries, values):
        return False
    counts = np.bincount(queries)
    order = np.argsort(queries, kind="stable")
    ascending = (np.diff(values[order]) > 0) | (np.diff(queries[order]) > 0)
    if ascending.all() and counts.max() >= _LEAST_RANKS:
        return True
    return bool(values.min() == 1 and (counts > 1).sum() >= _LEAST_QUERIES)


def are_ranks(queries: npt.NDArray[np.int32], values: npt.NDArray[np.float64]) -> bool:
    """Returns whether the values of each query are 1 to n, or all are 0 to n - 1, and some n is above 1."""
    order = np.lexsort((values, queries))
    starts = np.flatnonzero(np.diff(queries[order], prepend=-1))
    counts = np.diff(starts, append=len(order))
    expected = np.arange(len(order)) - np.repeat(starts, counts)
    least = values.min(initial=1)
    return bool(least in (0, 1) and counts.max(initial=0) > 1 and (values[order] == expected + least).all())


def run_error(file: File) -> InputError:
    """Returns the error for a run that was given as a source."""
    return InputError(
        f"{file.origin}: a run: documents that a search found, which nobody judged",
        f"miner mine STORE --candidates {quote(file.origin)} reads it; a file of judgments is named qrels…",
    )
