"""Sets of ids: texts once, and rows that refer to them.

The sets are our own, in the layouts of the docstring of sentence-transformers 6.2 (util/dataset.py,
resolve_ids), of lightonai/ms-marco-en-bge and lightonai/embeddings-fine-tuning, of MTEB, and of Tevatron's
newer files (src/tevatron/retriever/dataset.py, in 2025).
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from miner.sources.candidates import read_candidates
from tests.sources_support import collect, jsonl, refused, rows, write

TEXTS: dict[str, Any] = {
    "queries": {"query_id": ["q1", "q2"], "query": ["what is rice", "where is Rome"]},
    "documents": {"document_id": ["d1", "d2", "d3"], "document": ["a grain", "Italy", "a river"]},
}
TRIPLETS = {"query_id": ["q1", "q2"], "positive_id": ["d1", "d2"], "negative_id": ["d2", "d3"]}
LABELLED = {"query_id": ["q1"], "document_ids": [["d1", "d2", "d3"]], "labels": [[2, 0, 1]]}
SCORED = {
    "query_id": ["q1", "q2"],
    "document_ids": [["d1", "d3"], ["d2", "d1"]],
    "scores": [[3.0, 1.0], [2.0, 1.0]],
}
QRELS = {"query_id": ["q1", "q2"], "document_id": ["d1", "d2"], "score": [2.0, 1.0]}


def id_set(folder: Path, card: str = "", **parts: dict[str, Any]) -> Path:
    """Writes a set: each part is a config, or NAME__SPLIT a split of it."""
    for name, columns in {**TEXTS, **parts}.items():
        part, _, split = name.replace("_hard", "-hard").partition("__")
        (folder / part).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / part / f"{split or 'train'}-00000-of-00001.parquet")
    if card:
        write(folder / "README.md", card)
    return folder


def card_of(*configs: str) -> str:
    """Returns a card; a config is its name, with `:SPLIT` for another split than train."""
    lines = []
    for config in configs:
        name, _, split = config.partition(":")
        files = f"  - split: {split or 'train'}\n    path: {name}/{split or 'train'}-*"
        lines.append(f"- config_name: {name}\n  data_files:\n{files}\n")
    return f"---\nconfigs:\n{''.join(lines)}---\n\n# A set\n"


def judged(path: Path | str, **options: Any) -> list[tuple[str, str, float]]:
    found = collect(path, **options).get("judgments", [])
    return [(row["query_id"], row["doc_id"], row["relevance"]) for row in found]


def test_triplets_of_ids_are_judgments(tmp_path: Path) -> None:
    folder = id_set(tmp_path / "set", triplet=TRIPLETS)
    assert detect(str(folder)) == "ids"
    assert judged(folder) == [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d2", 1), ("q2", "d3", 0)]
    report = ingest(tmp_path / "s.duckdb", str(folder))
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 4}
    texts = rows(tmp_path / "s.duckdb", "SELECT doc_id, text FROM documents ORDER BY 1")
    assert texts == [("d1", "a grain"), ("d2", "Italy"), ("d3", "a river")]


def test_negatives_of_a_set_with_scores_were_mined(tmp_path: Path) -> None:
    folder = id_set(tmp_path / "set", triplet=TRIPLETS, scored=SCORED)
    assert judged(folder) == [("q1", "d1", 1), ("q2", "d2", 1)]
    assert read_candidates(folder).table["score"].to_pylist() == [3, 1, 2, 1]
    source = open_source(str(folder), SourceConfig())
    assert f"not read: the scores in scored; miner mine --candidates {folder} reads them" in source.note
    assert "negative_id = ids of negatives; negatives were mined, not judged" in source.read_as


SCORED_TRIPLETS: dict[str, dict[str, Any]] = {
    "one negative": {**TRIPLETS, "scores": [[3.0, 1.0], [2.0, 2.5]]},
    "numbered negatives": {**TRIPLETS, "negative_id_2": ["d3", "d1"], "scores": [[3.0, 1.0, 0.5]] * 2},
    "lists": {
        "query_id": ["q1", "q2"],
        "positive_ids": [["d1"], ["d2", "d1"]],
        "negative_ids": [["d2", "d3"], ["d3"]],
        "scores": [[3.0, 1.0, 0.5], [3.0, 1.0, 0.5]],
    },
    "numbers as ids": {"query_id": [1], "positive_id": [7], "negative_id": [9], "scores": [[3, 1]]},
}
CANDIDATES: dict[str, dict[tuple[str, str], float]] = {
    "one negative": {("q1", "d1"): 3, ("q1", "d2"): 1, ("q2", "d2"): 2, ("q2", "d3"): 2.5},
    "numbered negatives": {
        ("q1", "d1"): 3, ("q1", "d2"): 1, ("q1", "d3"): 0.5,
        ("q2", "d2"): 3, ("q2", "d3"): 1, ("q2", "d1"): 0.5,
    },
    "lists": {
        ("q1", "d1"): 3, ("q1", "d2"): 1, ("q1", "d3"): 0.5,
        ("q2", "d2"): 3, ("q2", "d1"): 1, ("q2", "d3"): 0.5,
    },
    "numbers as ids": {("1", "7"): 3, ("1", "9"): 1},
}  # fmt: skip


@pytest.mark.parametrize("name", SCORED_TRIPLETS)
def test_scores_beside_triplets_are_candidates(tmp_path: Path, name: str) -> None:
    folder = id_set(tmp_path / "set", triplet=SCORED_TRIPLETS[name])
    assert {relevance for _, _, relevance in judged(folder)} == {1}
    found = read_candidates(folder).table.to_pylist()
    assert {(row["query_id"], row["doc_id"]): row["score"] for row in found} == CANDIDATES[name]
    note = open_source(str(folder), SourceConfig()).note
    assert note == f"not read: the scores in triplet; miner mine --candidates {folder} reads them"


def test_lists_of_scores_of_another_length_name_their_row(tmp_path: Path) -> None:
    folder = id_set(tmp_path / "set", triplet={**TRIPLETS, "scores": [[3.0, 1.0], [2.0]]})
    with pytest.raises(InputError, match=r"00001.parquet:2: 2 documents, but 1 score; give every"):
        read_candidates(folder)


def test_one_score_beside_a_triplet_says_that_a_miner_found_it(tmp_path: Path) -> None:
    """Whose score it is, nothing says: it may be a margin."""
    folder = id_set(tmp_path / "set", triplet={**TRIPLETS, "score": [0.5, 0.25]})
    assert judged(folder) == [("q1", "d1", 1), ("q2", "d2", 1)]
    assert open_source(str(folder), SourceConfig()).note == "not read: columns score"
    with pytest.raises(InputError, match="no part with lists of scores"):
        read_candidates(folder)


def test_a_score_beside_a_label_is_listed(tmp_path: Path) -> None:
    folder = id_set(tmp_path / "set", train={**JUDGED, "score": [0.5, 0.25]})
    assert judged(folder) == [("q1", "d1", 1), ("q2", "d2", 0)]
    assert open_source(str(folder), SourceConfig()).note == "not read: columns score"


def test_labels_and_several_ids_in_a_row(tmp_path: Path) -> None:
    assert judged(id_set(tmp_path / "a", lists=LABELLED)) == [
        ("q1", "d1", 2),
        ("q1", "d2", 0),
        ("q1", "d3", 1),
    ]
    several = {"query_id": ["q1"], "positive_ids": [["d1", "d2"]], "negative_ids": [["d3"]]}
    assert judged(id_set(tmp_path / "b", rows=several)) == [("q1", "d1", 1), ("q1", "d2", 1), ("q1", "d3", 0)]
    numbered = {"query_id": ["q1"], "positive_id": ["d1"], "negative_id_1": ["d2"], "negative_id_2": ["d3"]}
    assert judged(id_set(tmp_path / "c", rows=numbered)) == [
        ("q1", "d1", 1),
        ("q1", "d2", 0),
        ("q1", "d3", 0),
    ]


def test_judgments_of_a_set_go_before_its_triplets(tmp_path: Path) -> None:
    parts = {"qrels__train": QRELS, "triplet": TRIPLETS, "triplet_hard": TRIPLETS, "scored": SCORED}
    card = card_of("queries", "documents", "qrels", "triplet", "triplet-hard", "scored")
    folder = id_set(tmp_path / "set", card, **parts)
    assert judged(folder) == [("q1", "d1", 2), ("q2", "d2", 1)]
    note = open_source(str(folder), SourceConfig()).note
    assert "not read: triplet, triplet-hard, scored (the judgments are in other parts)" in note


JUDGED = {"query_id": ["q1", "q2"], "document_id": ["d1", "d2"], "label": [1, 0]}


@pytest.mark.parametrize("card", [True, False])
@pytest.mark.parametrize("name", ["train", "qrels", "default", "dev"])
def test_judgments_beside_the_texts_are_a_set(tmp_path: Path, name: str, card: bool) -> None:
    folder = id_set(tmp_path / "set", card_of("queries", "documents", name) if card else "", **{name: JUDGED})
    for format in ("auto", "ids"):
        assert judged(folder, format=format) == [("q1", "d1", 1), ("q2", "d2", 0)]
    report = ingest(tmp_path / "s.duckdb", str(folder))
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 2}
    splits = rows(tmp_path / "s.duckdb", "SELECT DISTINCT split FROM judgments")
    assert splits == [("dev" if name == "dev" else "train",)]


@pytest.mark.parametrize(("name", "format"), [("train", "ids"), ("qrels", "mteb"), ("default", "mteb")])
def test_judgments_beside_a_corpus_are_read_under_any_name(tmp_path: Path, name: str, format: str) -> None:
    tables = {"queries": TEXTS["queries"], "corpus": TEXTS["documents"], name: JUDGED}
    for part, columns in tables.items():
        (tmp_path / "set" / part).mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "set" / part / "train.parquet")
    assert detect(str(tmp_path / "set")) == format
    assert judged(tmp_path / "set") == [("q1", "d1", 1), ("q2", "d2", 0)]


def test_judgments_and_texts_of_the_hub_are_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("qrels", "train"):
        card = card_of("queries", "documents", name)
        folder = id_set(tmp_path / name, card, **{name: JUDGED})
        assert judged(f"hf:{folder}") == judged(f"hf:{folder}:{name}") == [("q1", "d1", 1), ("q2", "d2", 0)]


def test_splits_are_those_of_the_card_or_of_the_names(tmp_path: Path) -> None:
    parts = {"rows__train": TRIPLETS, "rows__validation": {name: ids[:1] for name, ids in TRIPLETS.items()}}
    splits = ["train"] * 4 + ["dev"] * 2
    plain = id_set(tmp_path / "plain", **parts)
    assert [row["split"] for row in collect(plain)["judgments"]] == splits
    carded = id_set(tmp_path / "card", card_of("queries", "documents", "rows", "rows:validation"), **parts)
    assert [row["split"] for row in collect(carded)["judgments"]] == splits
    named = id_set(tmp_path / "named", card_of("queries", "documents", "test"), test=TRIPLETS)
    assert {row["split"] for row in collect(named)["judgments"]} == {"test"}
    assert {row["split"] for row in collect(named, split="mine")["judgments"]} == {"mine"}


def test_the_texts_may_have_the_names_of_mteb(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    tables = {
        "corpus": {"_id": ["1"], "title": ["T"], "text": ["a grain"]},
        "queries": {"_id": ["q"], "text": ["what is rice"]},
        "default": {"query-id": ["q"], "corpus-id": ["1"], "score": [1.0]},
        "rows": {"query_id": ["q"], "positive_id": ["1"], "negative_id": ["1"]},
    }
    for name, columns in tables.items():
        folder.joinpath(name).mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / name / "test-00000-of-00001.parquet")
    found = collect(folder)
    judged = [(row["query_id"], row["doc_id"], row["split"]) for row in found["judgments"]]
    assert judged == [("q", "1", "test")]
    assert found["documents"][0]["title"] == "T"
    assert detect(str(folder)) == "ids"


def test_lists_that_are_written_as_texts_are_read(tmp_path: Path) -> None:
    lists = {"query_id": ["q1"], "document_ids": ["['d1', 'd2']"], "labels": ["[1, 0]"]}
    assert judged(id_set(tmp_path / "set", lists=lists)) == [("q1", "d1", 1), ("q1", "d2", 0)]


def test_rows_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    lists = {
        "query_id": ["q1", "q1", "", "q2"],
        "document_ids": [["d1", "d2"], [], ["d1"], ["d1"]],
        "labels": [["1"], [], ["1"], ["x"]],
    }
    folder = id_set(tmp_path / "set", lists=lists)
    found = collect(folder)
    assert [(row["line"], row["reason"]) for row in found["rejected"]] == [
        (1, "different_lengths"), (2, "empty_list"), (3, "empty_id"), (4, "bad_relevance"),
    ]  # fmt: skip
    assert len([row for row in found["rows"] if row["kind"] == "rows of ids"]) == 4


IDS = st.lists(st.sampled_from(["d1", "d2", "d3", ""]), max_size=3)
ROWS = st.fixed_dictionaries(
    {"query_id": st.sampled_from(["q1", "q2", ""]), "positive_ids": IDS, "negative_ids": IDS},
    optional={"document_ids": IDS, "labels": st.lists(st.sampled_from(["0", "1", "2.5", "x"]), max_size=3)},
)


@given(st.lists(ROWS, min_size=1, max_size=5), st.booleans())
def test_every_row_is_stored_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, found: list[dict[str, Any]], scored: bool
) -> None:
    more = [{**row, "score": 0.5} for row in found] if scored else found
    parts = collect(write(tmp_path_factory.mktemp("x") / "t.jsonl", jsonl(*more)))
    lines = {name: {row["line"] for row in parts.get(name, [])} for name in ("rows", "judgments", "rejected")}
    assert lines["rows"] == set(range(1, len(found) + 1))
    assert lines["judgments"] | lines["rejected"] == lines["rows"]
    assert not lines["judgments"] & lines["rejected"]


def test_without_a_card_that_can_be_read_the_names_of_files_count(tmp_path: Path) -> None:
    folder = id_set(tmp_path / "set", "---\nconfigs: [\n---\n", triplet=TRIPLETS)
    assert judged(folder) == judged(id_set(tmp_path / "other", triplet=TRIPLETS))
    note = open_source(str(folder), SourceConfig()).note
    assert note.startswith(f"{folder}/README.md: its front matter cannot be read (while parsing ")
    assert "not read: README.md (not a part of the set)" in note


def test_a_broken_card_beside_plain_tables_is_a_note(tmp_path: Path) -> None:
    folder = write(tmp_path / "plain" / "README.md", "---\nconfigs: [\n---\n").parent
    pq.write_table(pa.table({"query": ["a"], "positive": ["b"]}), folder / "train.parquet")
    source = open_source(str(folder), SourceConfig())
    assert source.note.startswith(f"{folder}/README.md: its front matter cannot be read (")
    assert len(collect(folder)["judgments"]) == 1


def test_a_folder_that_is_no_set_is_refused_by_its_format(tmp_path: Path) -> None:
    write(tmp_path / "set" / "x.tsv", "query\tpositive\na\tb\n")
    assert refused(tmp_path, tmp_path / "set", format="ids") == (
        "DIR/set: no set of ids; it needs Parquet files `queries`, `documents` or `corpus`, and one with "
        "rows of ids; without --format ids it is read as pairs"
    )
    folder = id_set(tmp_path / "set2", triplet=TRIPLETS)
    with pytest.raises(InputError) as caught:
        read_candidates(folder)
    assert "no part with lists of scores" in str(caught.value)


# Tevatron's newer files

TEVATRON = {
    "query_id": "q", "query_text": "what is rice", "query_image": None,
    "positive_document_ids": ["1"], "negative_document_ids": ["2", "3"],
}  # fmt: skip
CORPUS = [{"docid": str(n), "text": text} for n, text in enumerate(("a grain", "Italy", "a river"), 1)]


def test_rows_of_ids_with_a_corpus_beside_them(tmp_path: Path) -> None:
    corpus, train = (
        write(tmp_path / "corpus.jsonl", jsonl(*CORPUS)),
        write(tmp_path / "train.jsonl", jsonl(TEVATRON)),
    )
    report = ingest(tmp_path / "s.duckdb", [str(corpus), str(train)])
    assert dict(report.added) == {"documents": 3, "queries": 1, "judgments": 3}
    assert report.rejected == ()
    assert judged(train) == [("q", "1", 1), ("q", "2", 0), ("q", "3", 0)]
    assert open_source(str(train), SourceConfig()).read_as == (
        "rows of ids: query_id = query id, query_text = query, positive_document_ids = ids of relevant "
        "documents, negative_document_ids = ids of negatives"
    )
    assert refused(tmp_path, train, format="auto").startswith("the sources hold judgments, but no documents")


@pytest.mark.parametrize("text", ["query_text", "query"])
@pytest.mark.parametrize("name", ["corpus.jsonl", "docs.jsonl.gz"])
def test_a_folder_of_rows_of_ids_with_their_corpus(tmp_path: Path, name: str, text: str) -> None:
    corpus = jsonl(*CORPUS).encode()
    write(tmp_path / "set" / name, gzip.compress(corpus) if name.endswith(".gz") else corpus)
    row = {text if key == "query_text" else key: value for key, value in TEVATRON.items()}
    write(tmp_path / "set/train.jsonl", jsonl(row))
    write(tmp_path / "set/dev.jsonl", jsonl(row | {"query_id": "r", f"{text}": "what is Italy"}))
    assert detect(str(tmp_path / "set")) == "table"
    report = ingest(tmp_path / "s.duckdb", [str(tmp_path / "set")])
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 6}
    assert dict(report.splits) == {"dev": 1, "train": 1}
    opened = open_source(str(tmp_path / "set"), SourceConfig())
    assert opened.read_as.startswith("documents: docid = document id, text = document; rows of ids: ")
    assert name not in opened.note


def test_a_set_of_the_hub_is_read_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    card = card_of("queries", "documents", "triplet", "scored")
    folder = id_set(tmp_path / "set", card, triplet=TRIPLETS, scored=SCORED)
    assert judged(f"hf:{folder}") == [("q1", "d1", 1), ("q2", "d2", 1)]
    found = collect(f"hf:{folder}")
    assert [row["text"] for row in found["documents"]] == ["a grain", "Italy", "a river"]


@pytest.mark.parametrize("scores", [True, False])
def test_the_scores_of_a_set_of_the_hub_count_for_one_part(
    scores: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    parts = ("queries", "documents", "triplet", *(["scored"] if scores else []))
    info = """dataset_info:
- config_name: scored
  features:
  - name: query_id
    dtype: string
  - name: document_ids
    list: string
  - name: scores
    list: float64
---
"""
    card = card_of(*parts).replace("---\n\n", info if scores else "---\n\n")
    source = f"hf:{id_set(tmp_path / 'set', card, triplet=TRIPLETS, scored=SCORED)}"
    negatives = [] if scores else [("q1", "d2", 0), ("q2", "d3", 0)]
    assert sorted(judged(f"{source}:triplet")) == sorted([("q1", "d1", 1), ("q2", "d2", 1), *negatives])
    with pytest.raises(InputError, match="no column 'query'"):
        open_source(f"{source}:triplet", SourceConfig(format="pairs"))


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "''", "a**"])
def test_patterns_of_a_card_stay_in_the_folder(tmp_path: Path, pattern: str) -> None:
    card = card_of("queries", "documents", "triplet", "other").replace("other/train-*", pattern)
    write(tmp_path / "outside.parquet", b"not Parquet")
    source = id_set(tmp_path / "set", card, triplet=TRIPLETS)
    assert detect(str(source)) == "ids"
    assert len(judged(source)) == len(judged(id_set(tmp_path / "other", triplet=TRIPLETS)))


def test_scores_of_pairs_are_no_judgments(tmp_path: Path) -> None:
    pairs = {"query_id": ["q1", "q2"], "document_id": ["d1", "d2"], "score": [7.5, -3.25]}
    source = id_set(tmp_path / "set", triplet=TRIPLETS, pairs=pairs)
    assert judged(source) == judged(id_set(tmp_path / "other", triplet=TRIPLETS))
    assert "not read: pairs (scores, not judgments); miner mine --candidates" in (
        open_source(str(source), SourceConfig()).note
    )
    grades = {"query_id": ["q1", "q2"], "document_id": ["d1", "d2"], "score": [2.0, 0.5]}
    graded = id_set(tmp_path / "graded", triplet=TRIPLETS, qrels=grades)
    assert judged(graded) == [("q1", "d1", 2.0), ("q2", "d2", 0.5)]
