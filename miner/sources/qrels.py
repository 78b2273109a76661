"""A file of judgments alone: BEIR's three columns between tabs, or TREC's four."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from miner.errors import InputError
from miner.sources import beir, trec
from miner.sources.files import File, lines


def read_judgments(path: Path) -> pa.Table:
    """Returns the judgments of a file: query_id, doc_id, relevance; a pair judged twice has the highest.

    Raises InputError when there is no such file or a line is no judgment.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "name a file of judgments: query, document, relevance")
    file = File(path, str(path))
    first = next((line.text for line in lines(file) if line.text.strip()), "")
    read = beir.judgments if len(first.split("\t")) == 3 else trec.judgments
    found = []
    for part in read(file, ""):
        if part.rejected is not None:
            bad = part.rejected.slice(0, 1).to_pylist()[0]
            raise InputError(
                f"{path}:{bad['line']}: {bad['detail']}",
                "a line is `query document relevance` between tabs, or TREC's `query 0 document relevance`",
            )
        if part.judgments is not None:
            found.append(part.judgments.select(["query_id", "doc_id", "relevance"]))
    if not found:
        raise InputError(f"{path} holds no judgments", "name a file of judgments: query, document, relevance")
    table = pa.concat_tables(found).group_by(["query_id", "doc_id"]).aggregate([("relevance", "max")])
    return table.rename_columns({"relevance_max": "relevance"})
