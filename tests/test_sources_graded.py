"""Known tables of graded pairs: inference, duplicate questions, ESCI.

The fixtures are ours. The layouts: SNLI 1.0 and MultiNLI 1.0 (JSON lines), MNLI in GLUE (TSV),
stanfordnlp/snli with names of classes, Quora's question pairs, and amazon-science/esci-data (2022, two
Parquet files).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import InputError, UsageError
from miner.sources import SourceConfig, detect, open_source
from tests.sources_support import accounted, collect, jsonl, refused, rows, write
from tests.test_sources_layouts import judged

SNLI = [
    {"annotator_labels": ["entailment"], "gold_label": "entailment", "pairID": "1", "sentence1": "a",
     "sentence2": "b"},
    {"annotator_labels": ["contradiction"], "gold_label": "contradiction", "pairID": "2", "sentence1": "a",
     "sentence2": "c"},
    {"annotator_labels": ["neutral"], "gold_label": "neutral", "pairID": "3", "sentence1": "a",
     "sentence2": "d"},
    {"annotator_labels": ["neutral", "entailment"], "gold_label": "-", "pairID": "4", "sentence1": "a",
     "sentence2": "e"},
]  # fmt: skip
MNLI = (
    "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
    '0\tfiction\tthe "a\tb\tneutral\tneutral\n1\tfiction\tthe "a\tc\tentailment\tentailment\n'
)
QUORA = "id,qid1,qid2,question1,question2,is_duplicate\n0,1,2,a,b,0\n1,3,4,c,d,1\n"


def test_snli_leaves_out_neutral_pairs_and_those_without_a_gold_label(tmp_path: Path) -> None:
    source = write(tmp_path / "snli_1.0_dev.jsonl", jsonl(*SNLI))
    report = accounted(tmp_path, source, 4)
    assert [(one.reason, one.rows) for one in report.rejected] == [("unmapped_relevance", 2)]
    assert report.rejected[0].first[1].endswith(":4: relevance '-' is none of entailment, contradiction")
    assert judged(source) == [("a", "b", 1.0), ("a", "c", 0.0)]
    opened = open_source(str(source), SourceConfig())
    assert opened.note.splitlines()[-1] == (
        "gold_label: entailment=1,contradiction=0; rows with other values are left out (for other "
        "relevances: --relevance-column gold_label --relevance-map entailment=1,contradiction=0)"
    )
    assert opened.read_as == (
        "natural language inference, pairs: sentence1 = query, sentence2 = documents, gold_label = relevance "
        "of sentence2"
    )


SNLI_TXT = (
    "gold_label\tsentence1_binary_parse\tsentence1\tsentence2\tpairID\tlabel1\n"
    'entailment\t( a )\tthe "a\tb\t1\tentailment\ncontradiction\t( a )\tthe "a\tc\t2\tneutral\n'
    '-\t( a )\tthe "a\td\t3\tneutral\n'
)


@pytest.mark.parametrize("options", [{}, {"format": "nli"}])
def test_the_text_files_of_snli_are_tables(tmp_path: Path, options: dict[str, Any]) -> None:
    source = write(tmp_path / "set/snli_1.0_train.txt", SNLI_TXT)
    write(tmp_path / "set/snli_1.0_dev.txt", SNLI_TXT.replace("\tb\t", "\te\t"))
    write(tmp_path / "set/README.txt", "About these files.\n")
    assert detect(str(source)) == detect(str(source.parent)) == "table"
    accounted(tmp_path, source, 3, **options)
    assert judged(source, **options) == [('the "a', "b", 1.0), ('the "a', "c", 0.0)]
    assert {row["split"] for row in collect(source.parent, **options)["judgments"]} == {"train", "dev"}
    note = open_source(str(source.parent), SourceConfig(**options)).note
    assert "not read: README.txt" in note


def test_other_texts_with_tabs_are_documents(tmp_path: Path) -> None:
    source = write(tmp_path / "notes.txt", "label\tand other words\nof a note\n")
    assert detect(str(source)) == "documents"
    table = write(tmp_path / "snli.txt", SNLI_TXT)
    assert len(collect(table, format="documents")["documents"]) == 1


def test_glue_and_other_relevances(tmp_path: Path) -> None:
    source = write(tmp_path / "train.tsv", MNLI)
    assert judged(source) == [('the "a', "c", 1.0)]
    chosen: dict[str, Any] = {
        "relevance_column": "gold_label",
        "relevance_map": {"entailment": 2, "neutral": 1},
    }
    assert judged(source, **chosen) == [('the "a', "b", 1.0), ('the "a', "c", 2.0)]


def test_names_of_classes_of_a_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": names}
    )
    data = {"premise": ["a"] * 4, "hypothesis": ["b", "c", "d", "e"], "label": [0, 1, 2, -1]}
    datasets.Dataset.from_dict(data, features=features).save_to_disk(tmp_path / "saved")
    report = accounted(tmp_path, tmp_path / "saved", 4)
    assert [(one.reason, one.rows) for one in report.rejected] == [("unmapped_relevance", 2)]
    assert judged(tmp_path / "saved") == [("a", "b", 1.0), ("a", "d", 0.0)]


def test_numbers_without_names_are_not_guessed(tmp_path: Path) -> None:
    source = write(tmp_path / "t.jsonl", jsonl({"premise": "a", "hypothesis": "b", "label": 0}))
    with pytest.raises(InputError, match="name yours, such as --query-column premise"):
        open_source(str(source), SourceConfig())
    assert refused(tmp_path, source, format="nli") == (
        "DIR/t.jsonl: not natural language inference; it has sentence1 and sentence2 or premise and "
        "hypothesis, and gold_label or label; the columns here: premise, hypothesis, label"
    )


def test_duplicate_questions_with_names_of_classes(tmp_path: Path) -> None:
    """As GLUE's QQP is on the hub."""
    rows_ = [("a", "b", "not_duplicate"), ("c", "d", "duplicate")]
    records = [{"question1": one, "question2": two, "label": label} for one, two, label in rows_]
    assert judged(write(tmp_path / "t.jsonl", jsonl(*records))) == [("a", "b", 0.0), ("c", "d", 1.0)]


def test_duplicate_questions(tmp_path: Path) -> None:
    source = write(tmp_path / "questions.csv", QUORA)
    assert detect(str(source)) == "table"
    accounted(tmp_path, source, 2)
    assert judged(source) == judged(source, format="duplicates") == [("a", "b", 0.0), ("c", "d", 1.0)]
    assert judged(source, relevance_column="none") == [("a", "b", 1.0), ("c", "d", 1.0)]
    opened = open_source(str(source), SourceConfig())
    assert opened.note == "not read: columns id, qid1, qid2"
    assert opened.read_as.startswith("duplicate questions, pairs: question1 = query")


def test_columns_that_an_option_names_come_first(tmp_path: Path) -> None:
    source = write(tmp_path / "questions.csv", QUORA)
    with pytest.raises(InputError, match="column 'is_duplicate' looks like a label of the pairs"):
        open_source(str(source), SourceConfig(query_column="question1", positive_column="question2"))


@pytest.mark.parametrize("labels", ["ESCI", ["Exact", "Substitute", "Complement", "Irrelevant"]])
def test_esci_in_one_table(tmp_path: Path, labels: Any) -> None:
    records = [
        {"query": "a", "product_title": text, "esci_label": label}
        for text, label in zip("bcde", labels, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet")
    expected = [("a", "b", 3.0), ("a", "c", 2.0), ("a", "d", 1.0), ("a", "e", 0.0)]
    assert judged(tmp_path / "t.parquet") == expected
    accounted(tmp_path, tmp_path / "t.parquet", 4)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("in_folder", [False, True])
def test_esci_in_one_table_keeps_its_ids_and_splits(tmp_path: Path, suffix: str, in_folder: bool) -> None:
    texts = {(product["product_id"], product["product_locale"]): product for product in PRODUCTS}
    records = [example | texts[example["product_id"], example["product_locale"]] for example in EXAMPLES]
    file = tmp_path / f"set/esci.{suffix}"
    write(file, jsonl(*records))
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(records), file)
    source = file.parent if in_folder else file
    assert detect(str(source)) == "esci"
    require_esci(tmp_path, source, 4)
    note = open_source(str(source), SourceConfig()).note
    assert note == "not read: columns example_id, small_version, product_brand"
    chosen: dict[str, Any] = {"relevance_column": "esci_label", "relevance_map": {"E": 1, "I": 0}}
    assert [j["relevance"] for j in collect(source, **chosen)["judgments"]] == [1.0, 0.0]
    with pytest.raises(UsageError, match="--split test would merge the splits"):
        collect(source, split="test")


def require_esci(tmp_path: Path, source: Path, read: int) -> None:
    """Asserts what EXAMPLES and PRODUCTS become, of so many rows that are read."""
    report = accounted(tmp_path, source, read)
    assert [(one.reason, one.rows) for one in report.rejected] == [("unmapped_relevance", 1)]
    store = tmp_path / "accounted.duckdb"
    assert rows(store, "SELECT query_id, doc_id, relevance, split FROM judgments ORDER BY ALL") == [
        ("7", "us-P1", 3.0, "train"),
        ("7", "us-P2", 0.0, "train"),
        ("8", "es-P1", 2.0, "test"),
    ]
    assert rows(store, "SELECT doc_id, title, text FROM documents ORDER BY ALL") == [
        ("es-P1", "Zapato", "y"),
        ("us-P1", "Shoe", "It is red\nx"),
        ("us-P2", "Tea", ""),
    ]


EXAMPLES = [
    {"example_id": 0, "query": "red shoe", "query_id": 7, "product_id": "P1", "product_locale": "us",
     "esci_label": "E", "small_version": 1, "split": "train"},
    {"example_id": 1, "query": "red shoe", "query_id": 7, "product_id": "P2", "product_locale": "us",
     "esci_label": "I", "small_version": 1, "split": "train"},
    {"example_id": 2, "query": "rojo", "query_id": 8, "product_id": "P1", "product_locale": "es",
     "esci_label": "S", "small_version": 0, "split": "test"},
    {"example_id": 3, "query": "rojo", "query_id": 8, "product_id": "P1", "product_locale": "es",
     "esci_label": "X", "small_version": 0, "split": "test"},
]  # fmt: skip
PRODUCTS = [
    {"product_id": "P1", "product_title": "Shoe", "product_description": "It is red",
     "product_bullet_point": "x", "product_brand": "B", "product_locale": "us"},
    {"product_id": "P2", "product_title": "Tea", "product_description": None, "product_bullet_point": None,
     "product_brand": "B", "product_locale": "us"},
    {"product_id": "P1", "product_title": "Zapato", "product_description": "", "product_bullet_point": "y",
     "product_brand": "B", "product_locale": "es"},
]  # fmt: skip


def test_esci_as_it_is_published(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    for name, records in (("examples", EXAMPLES), ("products", PRODUCTS)):
        pq.write_table(pa.Table.from_pylist(records), source / f"shopping_queries_dataset_{name}.parquet")
    write(source / "sources.csv", "query_id,source\n7,x\n")
    assert detect(str(source)) == "esci"
    with pytest.raises(UsageError, match="--split test would merge the splits"):
        collect(source, split="test")
    require_esci(tmp_path, source, 7)
    assert open_source(str(source), SourceConfig()).note.splitlines() == [
        "not read: sources.csv (not examples or products)",
        "not read: columns example_id, small_version, product_brand",
    ]
    chosen: dict[str, Any] = {"relevance_column": "esci_label", "relevance_map": {"E": 1, "I": 0}}
    assert [j["relevance"] for j in collect(source, **chosen)["judgments"]] == [1.0, 0.0]
