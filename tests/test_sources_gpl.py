"""GPL's folder: a corpus, generated queries and their judgments, and mined negatives.

The fixtures are ours, in the layout that gpl 0.1.4 writes.
"""

from __future__ import annotations

from pathlib import Path

from miner.sources import SourceConfig, detect, open_source
from tests.sources_support import accounted, jsonl, refused, rows, write

JUDGMENTS = "SELECT query_id, doc_id, relevance, split FROM judgments ORDER BY ALL"


def gpl(folder: Path, prefix: str = "qgen") -> Path:
    corpus = [{"_id": "1", "title": "", "text": "Rome is old"}, {"_id": "2", "title": "", "text": "Rice"}]
    write(folder / "corpus.jsonl", jsonl(*corpus))
    queries = [{"_id": "genQ1", "text": "how old", "metadata": {}}, {"_id": "genQ2", "text": "what is rice"}]
    write(folder / f"{prefix}-queries.jsonl", jsonl(*queries))
    qrels = "query-id\tcorpus-id\tscore\ngenQ1\t1\t1\ngenQ2\t2\t1\n"
    write(folder / f"{prefix}-qrels/train.tsv", qrels)
    mined = {"qid": "genQ1", "pos": ["1"], "neg": {"bm25": ["2"]}}
    write(folder / "hard-negatives.jsonl", jsonl(mined))
    write(folder / "gpl-training-data.tsv", "genQ1\t1\t2\t4.5\n")
    return folder


def test_the_folder(tmp_path: Path) -> None:
    source = gpl(tmp_path / "set")
    assert detect(str(source)) == "gpl"
    report = accounted(tmp_path, source, 6)
    assert dict(report.added) == {"documents": 2, "queries": 2, "judgments": 2}
    expected = [("genQ1", "1", 1.0, "train"), ("genQ2", "2", 1.0, "train")]
    assert rows(tmp_path / "accounted.duckdb", JUDGMENTS) == expected
    assert open_source(str(source), SourceConfig()).note == (
        "not read: gpl-training-data.tsv, hard-negatives.jsonl "
        "(negatives that were mined, which nobody judged)"
    )


def test_another_prefix_and_judged_queries_beside_the_generated_ones(tmp_path: Path) -> None:
    source = gpl(tmp_path / "set", "mine")
    write(source / "queries.jsonl", jsonl({"_id": "q1", "text": "rice"}))
    write(source / "qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\t2\t1\n")
    write(source / "qrels/notes.txt", "notes")
    report = accounted(tmp_path, source, 8)
    assert dict(report.splits) == {"test": 1, "train": 2}
    assert "not read: qrels/notes.txt (not GPL's)" in open_source(str(source), SourceConfig()).note


def test_a_folder_that_lacks_a_part(tmp_path: Path) -> None:
    source = gpl(tmp_path / "set")
    (source / "qgen-qrels/train.tsv").unlink()
    assert open_source(str(source), SourceConfig()).note.endswith("set: no judgments in qgen-qrels")
    (source / "qgen-qrels").rmdir()
    assert refused(tmp_path, source, format="gpl") == (
        "DIR/set: no corpus.jsonl, or no queries with judgments; GPL's folder has corpus.jsonl, "
        "qgen-queries.jsonl and qgen-qrels/train.tsv"
    )
