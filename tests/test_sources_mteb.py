"""Retrieval sets in configurations: folders and names of the hub, as MTEB and NanoBEIR publish them.

The fixtures are ours. Their layouts: mteb/scifact and mteb/RuSciBenchCociteRetrieval (Parquet, 2025),
zeta-alpha-ai/NanoMSMARCO (no scores), sentence-transformers/NanoBEIR-en (a split for each set), BeIR/scifact
and BeIR/scifact-qrels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from tests.sources_support import accounted, collect, jsonl, refused, rows, write

CORPUS = [
    {"_id": "d1", "title": "Rome", "text": "Rome is old"},
    {"_id": "d2", "title": "", "text": "Rice is a grain"},
    {"_id": "d3", "title": "", "text": "Tea is a drink"},
]
QUERIES = [{"_id": "q1", "text": "how old is Rome"}, {"_id": "q2", "text": "what is rice"}]
QRELS = [
    {"query-id": "q1", "corpus-id": "d1", "score": 2},
    {"query-id": "q2", "corpus-id": "d2", "score": 1},
    {"query-id": "q2", "corpus-id": "d3", "score": 0},
]
EXPECTED = [("q1", "d1", 2.0, "test"), ("q2", "d2", 1.0, "test"), ("q2", "d3", 0.0, "test")]
JUDGMENTS = "SELECT query_id, doc_id, relevance, split FROM judgments ORDER BY ALL"


def parquet(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)


def card(**files: dict[str, str]) -> str:
    """Returns a card with configurations: for each its splits and the patterns of their files."""
    lines = ["---", "configs:"]
    for name, splits in files.items():
        lines += [f"- config_name: {name.replace('_', '-')}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", "A set.", ""])


def renamed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key.replace("_id", "id"): value for key, value in one.items()} for one in records]


def folders(path: Path) -> Path:
    """Writes a set as newer ones of MTEB are: a folder for each configuration, ids in `id`."""
    parquet(path / "corpus/test-00000-of-00002.parquet", renamed(CORPUS[:1]))
    parquet(path / "corpus/test-00001-of-00002.parquet", renamed(CORPUS[1:]))
    parquet(path / "queries/test-00000-of-00001.parquet", renamed(QUERIES))
    parquet(path / "qrels/test-00000-of-00001.parquet", QRELS)
    return path


def test_a_folder_for_each_configuration(tmp_path: Path) -> None:
    source = folders(tmp_path / "set")
    assert detect(str(source)) == "mteb"
    report = accounted(tmp_path, source, 8)
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 3}
    assert rows(tmp_path / "accounted.duckdb", JUDGMENTS) == EXPECTED
    assert rows(tmp_path / "accounted.duckdb", "SELECT title, text FROM documents ORDER BY doc_id")[0] == (
        "Rome",
        "Rome is old",
    )


def test_the_card_says_where_the_files_are(tmp_path: Path) -> None:
    """As in older sets of MTEB: judgments are the configuration `default`, and the names are free."""
    source = tmp_path / "set"
    write(source / "a/texts.jsonl", jsonl(*CORPUS))
    write(source / "b/asked.jsonl", jsonl(*QUERIES))
    parquet(source / "data/test-00000-of-00001.parquet", QRELS)
    parquet(source / "data/train-00000-of-00001.parquet", QRELS[:1])
    write(
        source / "README.md",
        card(
            default={"train": "data/train-*", "test": "data/test-*"},
            corpus={"corpus": "a/*.jsonl"},
            queries={"queries": "b/asked.jsonl"},
        ),
    )
    assert detect(str(source)) == "mteb"
    accounted(tmp_path, source, 3 + 2 + 4)
    found = rows(tmp_path / "accounted.duckdb", JUDGMENTS)
    assert sorted(found) == sorted([*EXPECTED, ("q1", "d1", 2.0, "train")])
    assert {j["split"] for j in collect(source, hf_split="test")["judgments"]} == {"test"}
    with pytest.raises(InputError, match=r"no split 'tset' of judgments \(did you mean 'test'\?\)"):
        open_source(str(source), SourceConfig(hf_split="tset"))


def test_judgments_without_scores_and_other_columns(tmp_path: Path) -> None:
    """NanoBEIR: every pair is a positive, and the only split is called train."""
    source = tmp_path / "set"
    parquet(source / "corpus/train-00000-of-00001.parquet", [{**one, "url": "x"} for one in CORPUS])
    parquet(source / "queries/train-00000-of-00001.parquet", QUERIES)
    pairs = [{"query-id": one["query-id"], "corpus-id": one["corpus-id"]} for one in QRELS]
    parquet(source / "qrels/train-00000-of-00001.parquet", pairs)
    write(source / "notes.txt", "notes")
    assert open_source(str(source), SourceConfig()).note.splitlines() == [
        "not read: notes.txt (not a part of the set)",
        "not read: columns url",
        f"{source}: judgments without a column score: every pair is a positive",
    ]
    assert [(j["relevance"], j["split"]) for j in collect(source, split="test")["judgments"]] == [
        (1.0, "test")
    ] * 3


def test_one_of_several_corpora_must_be_chosen(tmp_path: Path) -> None:
    """sentence-transformers/NanoBEIR-en: each split is a set with a corpus of its own."""
    source = tmp_path / "set"
    for name, number in (("NanoA", 0), ("NanoB", 1)):
        parquet(source / f"corpus/{name}-00000-of-00001.parquet", CORPUS[number:][:2])
        parquet(source / f"queries/{name}-00000-of-00001.parquet", QUERIES[number:][:1])
        parquet(source / f"qrels/{name}-00000-of-00001.parquet", QRELS[number:][:1])
        parquet(source / f"bm25/{name}-00000-of-00001.parquet", [{"query-id": "q1", "corpus-ids": ["d1"]}])
    assert refused(tmp_path, source) == (
        "DIR/set: its corpus has 2 splits (NanoA, NanoB), each a corpus; choose one: --set hf_split=NanoA"
    )
    found = collect(source, hf_split="NanoB")
    assert [row["doc_id"] for row in found["documents"]] == ["d2", "d3"]
    assert [(j["query_id"], j["split"]) for j in found["judgments"]] == [("q2", "NanoB")]
    note = open_source(str(source), SourceConfig(hf_split="NanoB")).note
    assert note.splitlines() == [
        "not read: bm25/NanoA-00000-of-00001.parquet, bm25/NanoB-00000-of-00001.parquet "
        "(not a part of the set)",
        "not read: splits NanoA",
    ]


def test_judgments_of_texts_that_the_set_lacks_are_counted(tmp_path: Path) -> None:
    source = folders(tmp_path / "set")
    bad = [
        {"query-id": "q1", "corpus-id": "d9", "score": 1},
        {"query-id": None, "corpus-id": "d1", "score": 1},
    ]
    parquet(source / "qrels/test-00000-of-00001.parquet", [*QRELS, *bad])
    report = accounted(tmp_path, source, 10, max_bad=0.5)
    assert {one.reason: one.rows for one in report.rejected} == {"unknown_document": 1, "unknown_query": 1}


def test_columns_that_are_missing(tmp_path: Path) -> None:
    source = folders(tmp_path / "set")
    parquet(source / "qrels/test-00000-of-00001.parquet", [{"question": "q1", "corpus-id": "d1"}])
    assert refused(tmp_path, source) == (
        "DIR/set/qrels/test-00000-of-00001.parquet: no columns of a query id and a document id, such as "
        "query-id and corpus-id; its columns: question, corpus-id"
    )
    parquet(source / "corpus/test-00000-of-00002.parquet", [{"id": "d1", "body": "a"}])
    assert refused(tmp_path, source) == (
        "DIR/set/corpus/test-00000-of-00002.parquet: no column 'document'; its columns: id, body"
    )


def test_several_languages(tmp_path: Path) -> None:
    source = tmp_path / "set"
    for language in ("en", "de"):
        folders(source / "x").rename(source / language)
        for role in ("corpus", "queries", "qrels"):
            (source / language / role).rename(source / f"{language}-{role}")
        (source / language).rmdir()
    assert refused(tmp_path, source) == "DIR/set: 2 sets: de, en; name one: hf:DIR/set:de"


def test_a_folder_said_to_be_a_set_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "set/a.jsonl", jsonl({"query": "a", "positive": "b"}))
    assert refused(tmp_path, tmp_path / "set", format="mteb") == (
        "DIR/set: no configurations corpus and queries; name a folder or a data set that has them; "
        "without --format mteb it is read as pairs"
    )
    assert refused(tmp_path, tmp_path / "set/a.jsonl", format="mteb").startswith(
        "DIR/set/a.jsonl: no configurations corpus and queries"
    )


class TestWithDatasets:
    """By name, with the library `datasets`; it reads the same from a folder as from the hub."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def test_by_name(self, tmp_path: Path) -> None:
        source = folders(tmp_path / "set")
        parts = {name: {"test": f"{name}/test-*"} for name in ("corpus", "queries", "qrels")}
        write(source / "README.md", card(**parts, bm25={"test": "qrels/*"}))
        assert open_source(f"hf:{source}", SourceConfig()).note == "not read: configurations bm25"
        accounted(tmp_path, f"hf:{source}", 8)
        assert rows(tmp_path / "accounted.duckdb", JUDGMENTS) == EXPECTED

    def test_one_language_by_name_and_judgments_of_their_own(self, tmp_path: Path) -> None:
        """BEIR on the hub has its judgments in another data set, NAME-qrels."""
        source = folders(tmp_path / "set")
        write(
            source / "README.md",
            card(
                en_corpus={"test": "corpus/*"},
                en_queries={"test": "queries/*"},
                de_corpus={"test": "corpus/*"},
                de_queries={"test": "queries/*"},
            ),
        )
        parquet(tmp_path / "set-qrels/test-00000-of-00001.parquet", QRELS)
        with pytest.raises(InputError, match=r"2 sets: en, de; name one: hf:.*set:en"):
            open_source(f"hf:{source}", SourceConfig())
        ingest(tmp_path / "s.duckdb", [f"hf:{source}:de", f"hf:{tmp_path}/set-qrels"])
        assert rows(tmp_path / "s.duckdb", JUDGMENTS) == EXPECTED

    def test_configurations_that_save_to_disk_wrote(self, tmp_path: Path) -> None:
        import datasets

        for name, records in (("corpus", CORPUS), ("queries", QUERIES)):
            datasets.Dataset.from_list(records).save_to_disk(tmp_path / "set" / name)
        judged = datasets.DatasetDict({"test": datasets.Dataset.from_list(QRELS)})
        judged.save_to_disk(tmp_path / "set/qrels")
        assert detect(str(tmp_path / "set")) == "mteb"
        accounted(tmp_path, tmp_path / "set", 8)
        assert rows(tmp_path / "accounted.duckdb", JUDGMENTS) == EXPECTED
