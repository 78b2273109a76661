"""Runs are never documents or judgments: what a search found, nobody judged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from miner.sources import SourceConfig, detect, open_source
from tests.sources_support import collect, jsonl, refused, write
from tests.test_sources_msmarco import FILES, folder

TREC_RUN = "".join(
    f"q{query} Q0 d{rank} {rank} {9 - rank}.5 bm25\n" for query in (1, 2) for rank in (1, 2, 3)
)
RANKS = "".join(f"{query}\t{rank + 100}\t{rank}\n" for query in (1, 2) for rank in (1, 2, 3))
SCORES = "1\t101\t0.91\n1\t102\t0.5\n2\t101\t-3\n"
REFUSED = (
    "DIR/{0}: a run: documents that a search found, which nobody judged; miner mine STORE --candidates "
    "DIR/{0} reads it; a file of judgments is named qrels…"
)


@pytest.mark.parametrize("name", ["found.txt", "found.trec", "found", "found.tsv"])
@pytest.mark.parametrize("content", [TREC_RUN, RANKS, SCORES], ids=["trec", "ranks", "scores"])
def test_a_run_is_refused_with_the_command_that_reads_it(tmp_path: Path, name: str, content: str) -> None:
    assert refused(tmp_path, write(tmp_path / name, content)) == REFUSED.format(name)


@pytest.mark.parametrize("name", ["run2.txt", "run.dev.small.tsv", "top10.tsv", "bm25.run"])
def test_two_ranks_in_a_file_that_is_named_as_a_run(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / name, "2\t101\t1\n1\t101\t1\n1\t102\t2\n2\t103\t2\n")
    assert refused(tmp_path, source) == REFUSED.format(name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tsv", "query_id\tdoc_id\trank\n1\t101\t1\n1\t102\t2\n"),
        ("x.txt", "query_id\tdoc_id\trank\n1\t101\t1\n1\t102\t2\n"),
        ("x.txt", "query_id\tdoc_id\tscore\n1\t101\t0.5\n1\t102\t2\n"),
        ("x.csv", "qid,pid,rank,score\n1,101,1,2.5\n"),
        ("x.jsonl", jsonl({"query_id": "1", "doc_id": "101", "rank": 1, "score": 2})),
    ],
)
def test_a_column_of_ranks_is_no_relevance(tmp_path: Path, name: str, content: str) -> None:
    assert refused(tmp_path, write(tmp_path / name, content)) == REFUSED.format(name)


@pytest.mark.parametrize("shuffled", [False, True])
def test_ranks_in_a_folder_are_listed_whatever_their_order(tmp_path: Path, shuffled: bool) -> None:
    """50 queries with 10 ranks: the first 100 lines have two ranks of each query."""
    lines = [f"{query}\t{rank * 100}\t{rank}\n" for rank in range(1, 11) for query in range(50)]
    if shuffled:
        random.Random(1).shuffle(lines)
    source = folder(tmp_path / "set", FILES | {"found.dev.tsv": "".join(lines), "run.tsv": "1\t7\t1\n"})
    note = open_source(str(source), SourceConfig()).note
    assert "not read: found.dev.tsv, run.tsv (a run: ranked documents, no judgments)" in note
    assert len(collect(source)["judgments"]) == 9


def test_runs_among_texts_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "set/a.txt", "Rome is old\n")
    write(tmp_path / "set/found.txt", TREC_RUN)
    opened = open_source(str(tmp_path / "set"), SourceConfig())
    assert opened.note == "not read: found.txt (a run: ranked documents, no judgments)"
    assert [row["doc_id"] for row in collect(tmp_path / "set")["documents"]] == ["a.txt"]
    only = write(tmp_path / "only/found.txt", RANKS).parent
    assert "a run" in refused(tmp_path, only)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("judged.txt", "1\t7\t1\n1\t8\t0\n1\t9\t2\n", "trec"),
        ("judged.txt", "".join(f"{n}\t7\t1\n{n}\t8\t0\n" for n in range(50)), "trec"),
        ("qrels.txt", RANKS, "trec"),
        ("x.txt", "query-id\tcorpus-id\tscore\n1\t101\t2\n1\t102\t1\n", "trec"),
        ("topics.qrels.txt", "1\t7\t1\n2\t8\t1\n", "trec"),
        ("rank.txt", "Their rank is\nnot known yet\n", "documents"),
        ("note.txt", "pi is 3.14\n", "documents"),
        ("top.txt", "three words here\n", "documents"),
        ("table.txt", "a b 1\nand more words\n", "documents"),
    ],
)
def test_judgments_and_texts_are_no_runs(tmp_path: Path, name: str, content: str, found: str) -> None:
    assert detect(str(write(tmp_path / name, content))) == found


def test_the_format_and_the_columns_may_be_said(tmp_path: Path) -> None:
    source = write(tmp_path / "run.txt", RANKS)
    assert len(collect(source, format="documents")["documents"]) == 1
    table = write(tmp_path / "run.tsv", "a b\tc d\t1\n")
    assert len(collect(table, header=False, columns=("query", "positive", "relevance"))["judgments"]) == 1
