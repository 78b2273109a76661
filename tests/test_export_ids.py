"""Data sets of ids: what they contain, that `datasets` loads them, and that models of every type train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.cli.export import _summary
from miner.errors import StoreError, UsageError
from miner.export import FORMATS, ExportConfig, export_run
from miner.export.formats import Shape
from miner.export.writers import shards
from miner.store.database import Database
from miner.store.runs import begin_run, finish_run
from miner.store.triplets import TRIPLET_IDS
from tests.export_store import DOCUMENTS, QUERIES, fill, made, make_run, selected_of
from tests.export_training import cross, dense, multi_vector, sparse, trained
from tests.stores import new_store

JUDGMENTS = [
    ("q1", "d1", 2.0, "train", "train.tsv"),
    ("q1", "d2", 1.0, "train", "train.tsv"),
    ("q1", "d3", 0.0, "train", "train.tsv"),
    ("q2", "d3", 3.0, "train", "train.tsv"),
    ("q3", "d1", 1.0, "dev", "dev.tsv"),
    ("q3", "d2", 0.5, "dev", "silver"),
]


def judge(store: Database) -> None:
    names = ("query_id", "doc_id", "relevance", "split", "source")
    store.insert("judgments", pa.table({name: [row[i] for row in JUDGMENTS] for i, name in enumerate(names)}))


def add_dev_run(store: Database, negatives: int = 1) -> None:
    """Adds the run `dev` of the split dev: q3 with the positive d1 and one negative of those requested."""
    ids = ["007", "d3"]
    store.insert("pool_documents", pa.table({"doc_no": [0, 1], "doc_id": ids}), evidence="ev-dev")
    row = {"query_no": [0], "query_id": ["q3"], "doc_id": ["d1"]}
    store.insert("positives", pa.table(row), evidence="ev-dev")
    run = make_run("dev", split="dev", evidence="ev-dev", negatives=negatives)
    begin_run(store, run)
    selected = selected_of([("q3", "d1", "d3", 0.5, 0.25, 1)], ids)
    decisions = pa.table({"query_no": [0], "codes": [[0, 0]]})
    finish_run(store, run.run_id, [{"decisions": decisions, "selected": selected}])


@pytest.fixture
def store(tmp_path: Path) -> Database:
    opened = new_store(tmp_path / "my.duckdb")
    fill(opened)
    judge(opened)
    return opened


def rows(folder: Path, config: str, split: str = "train") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(
        folder / config / f"{split}-00000-of-00001.parquet"
    ).to_pylist()
    return found


def test_every_config(store: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = made(store, out, format="ids", labels="grade")
    texts = {doc_id: f"{title} {text}" if title else text for doc_id, title, text in DOCUMENTS}
    assert rows(out, "documents") == [{"document_id": i, "text": texts[i]} for i in sorted(texts)]
    assert rows(out, "titles") == [{"document_id": i, "title": t} for i, t, _ in sorted(DOCUMENTS) if t]
    assert rows(out, "queries") == [{"query_id": i, "text": text} for i, text in QUERIES]
    ids = ["query_id", "positive_id", "negative_id"]
    assert rows(out, "triplet") == [
        dict(zip(ids, row, strict=True))
        for row in (("q1", "d1", "d3"), ("q1", "d2", "d3"), ("q2", "d3", "d4"))
    ]
    assert rows(out, "triplet-hard") == [
        dict(zip(ids, row, strict=True))
        for row in (
            ("q1", "d1", "d3"), ("q1", "d1", "007"), ("q1", "d2", "d3"), ("q1", "d2", "007"),
            ("q2", "d3", "d4"),
        )
    ]  # fmt: skip
    assert rows(out, "scored") == [
        {"query_id": "q1", "document_ids": ["d1", "d3", "007"], "scores": [0.9, 0.5, 0.25]},
        {"query_id": "q1", "document_ids": ["d2", "d3", "007"], "scores": [0.75, 0.5, 0.25]},
    ]
    listed = {"q1": ["d1", "d2", "d3", "007"], "q2": ["d3", "d4"]}
    assert rows(out, "labeled-list") == [
        {"query_id": "q1", "document_ids": listed["q1"], "labels": [2.0, 1.0, 0.0, 0.0]},
        {"query_id": "q2", "document_ids": listed["q2"], "labels": [3.0, 0.0]},
    ]
    assert [row["scores"] for row in rows(out, "scored-list")] == [[0.9, 0.75, 0.5, 0.25], [1.0, -0.5]]
    assert rows(out, "qrels", "dev") == [{"query_id": "q3", "document_id": "d1", "score": 1.0}]
    assert [row["score"] for row in rows(out, "qrels")] == [2.0, 1.0, 0.0, 3.0]
    assert report.data == out
    assert report.configs["triplet-hard"] == {"train": 5}
    assert [str(item) for item in report.left_out] == [
        "queries without negatives: 1",
        "(query, positive) pairs in scored with fewer than 2 negatives: 1",
    ]
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["configs"]["qrels"] == {"dev": 1, "train": 4}
    assert manifest["labels"] == "grade"
    assert len(manifest["files"]) == 10


def test_labels_are_binary_by_default(store: Database, tmp_path: Path) -> None:
    made(store, tmp_path / "out", format="ids")
    assert [row["labels"] for row in rows(tmp_path / "out", "labeled-list")] == [[1, 1, 0, 0], [1, 0]]
    for name, label in (("labeled-pair", "label"), ("labeled-list", "labels")):
        data = made(store, tmp_path / name, format=name, labels="grade").data.read_text("utf-8")
        found = [json.loads(line)[label] for line in data.splitlines()]
        assert found in ([2.0, 1.0, 0.0, 0.0, 3.0, 0.0], [[2.0, 1.0, 0.0, 0.0], [3.0, 0.0]])


def test_negatives_per_row_are_those_of_scored(store: Database, tmp_path: Path) -> None:
    report = made(store, tmp_path / "out", format="ids", negatives_per_row=1)
    assert [row["document_ids"] for row in rows(tmp_path / "out", "scored")] == [
        ["d1", "d3"], ["d2", "d3"], ["d3", "d4"],
    ]  # fmt: skip
    assert len(rows(tmp_path / "out", "triplet-hard")) == 5
    assert [str(item) for item in report.left_out] == ["queries without negatives: 1"]


def test_runs_of_other_splits_become_splits(store: Database, tmp_path: Path) -> None:
    add_dev_run(store)
    out = tmp_path / "out"
    report = made(store, out, format="ids", run="first", more_runs=("dev",))
    assert report.run == "first"
    assert report.configs["triplet"] == {"train": 3, "dev": 1}
    assert rows(out, "triplet", "dev") == [{"query_id": "q3", "positive_id": "d1", "negative_id": "d3"}]
    assert rows(out, "scored", "dev") == [
        {"query_id": "q3", "document_ids": ["d1", "d3"], "scores": [0.5, 0.25]}
    ]
    card = (out / "README.md").read_text("utf-8")
    assert "## Split dev\n\nFrom the run `dev`: 1 query, 1 triplet;" in card
    (further,) = report.further
    assert (further.run, further.rows, further.left_out) == ("dev", 5, ())
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert [one["run"]["name"] for one in manifest["more_runs"]] == ["dev"]
    assert manifest["more_runs"][0]["counts"]["rows"] == 5
    notes: list[str] = []
    before = (out / "manifest.json").stat().st_mtime_ns
    made(store, out, format="ids", run="first", more_runs=("dev",))
    assert (out / "manifest.json").stat().st_mtime_ns == before, notes


def test_what_is_left_out_of_each_run_is_reported(store: Database, tmp_path: Path) -> None:
    add_dev_run(store, negatives=2)
    out = tmp_path / "out"
    report = made(store, out, format="ids", run="first", more_runs=("dev",))
    lacks = "(query, positive) pairs in scored with fewer than 2 negatives: 1"
    assert [str(item) for one in report.further for item in one.left_out] == [lacks]
    lines = _summary(report).splitlines()
    assert lines[:2] == [
        f"run 'first': 14 rows from 2 queries (the run has 5 triplets) in {out}",
        "run 'dev': 4 rows from 1 query (the run has 1 triplet)",
    ]
    assert lines[-5:] == [
        "queries of run first with fewer negatives than requested: 2",
        "left out of run first: queries without negatives: 1",
        "left out of run first: (query, positive) pairs in scored with fewer than 2 negatives: 1",
        "queries of run dev with fewer negatives than requested: 1",
        f"left out of run dev: {lacks}",
    ]
    card = (out / "README.md").read_text("utf-8")
    assert card.partition("## Split dev")[2].partition("##")[0].endswith(f"Left out:\n\n- {lacks}\n\n")


def test_a_config_without_rows_is_left_out(store: Database, tmp_path: Path) -> None:
    store.execute("DELETE FROM selected WHERE query_id = 'q1'")
    report = made(store, tmp_path / "out", format="ids")
    assert "scored" not in report.configs
    assert not (tmp_path / "out/scored").exists()
    names = [config["config_name"] for config in front_matter(tmp_path / "out")["configs"]]
    assert names == [
        "queries",
        "documents",
        "titles",
        "qrels",
        "triplet",
        "triplet-hard",
        "labeled-list",
        "scored-list",
    ]


def test_a_lost_document_is_an_error(store: Database, tmp_path: Path) -> None:
    store.execute("DELETE FROM documents WHERE doc_id = 'd4'")
    with pytest.raises(StoreError, match=r"has triplets whose query or document is not in .*: mine again"):
        made(store, tmp_path / "out", format="ids")
    assert not (tmp_path / "out").exists()


def test_splits_that_datasets_cannot_tell_apart_are_refused(store: Database, tmp_path: Path) -> None:
    store.execute("UPDATE judgments SET split = 'a-1' WHERE doc_id = 'd1'")
    store.execute("UPDATE judgments SET split = 'a_1' WHERE doc_id = 'd2' AND query_id = 'q1'")
    with pytest.raises(UsageError, match="the splits 'a-1' and 'a_1' would both be called a_1"):
        made(store, tmp_path / "out", format="ids")


def front_matter(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((out / "README.md").read_text("utf-8").split("\n---\n")[0])
    return loaded


def test_the_card_has_what_the_user_says(store: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(
        store, out, format="ids", language=("en", "no"), license="cc-by-4.0", pretty_name="Cats: a set",
        source_datasets=("mteb/nfcorpus",),
    )  # fmt: skip
    found = front_matter(out)
    assert list(found)[:7] == [
        "language", "license", "size_categories", "task_categories", "source_datasets", "pretty_name", "tags",
    ]  # fmt: skip
    assert found["language"] == ["en", "no"]
    assert found["license"] == "cc-by-4.0"
    assert found["pretty_name"] == "Cats: a set"
    assert found["source_datasets"] == ["mteb/nfcorpus"]
    assert found["task_categories"] == ["feature-extraction", "sentence-similarity", "text-ranking"]
    assert found["tags"] == ["sentence-transformers", "hard-negatives"]
    made(store, out, format="ids", force=True)
    assert not {"language", "license", "source_datasets"} & set(front_matter(out))


def test_same_bytes_twice_in_any_pieces(
    store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, tmp_path / "a", format="ids")
    made(store, tmp_path / "b", format="ids")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    monkeypatch.setattr("miner.export.data.PIECE", 1)
    monkeypatch.setattr("miner.store.exported.TEXTS_READ", 2)
    monkeypatch.setattr("miner.export.writers.SHARD", 1)
    made(store, tmp_path / "c", format="ids")
    for config in ("queries", "documents", "triplet-hard", "labeled-list"):
        parts = sorted((tmp_path / "c" / config).iterdir())
        assert len(parts) > 1, config
        assert parts[-1].name == f"train-{len(parts) - 1:05d}-of-{len(parts):05d}.parquet"
        found = pa.concat_tables(pq.read_table(part) for part in parts)
        assert found.to_pylist() == rows(tmp_path / "a", config)


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=30, deadline=None)
@given(found=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=7), size=st.integers(1, 60))
def test_any_text_survives_in_any_number_of_shards(
    found: list[tuple[str, str]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = pa.table({"document_id": [one for one, _ in found], "text": [text for _, text in found]})
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("miner.export.writers.SHARD", size)
        with shards(folder, "train") as write:
            for start in range(len(found)):
                write(table.slice(start, 1))
    read = pa.concat_tables(pq.read_table(part) for part in sorted(folder.iterdir()))
    assert read.to_pylist() == table.to_pylist()


NAMES = st.sampled_from(["a", "b", "c", "d", "e", "ø", "7"])


@settings(max_examples=60, deadline=None)
@given(
    found=st.dictionaries(
        NAMES, st.dictionaries(NAMES, st.lists(NAMES, min_size=1, unique=True), min_size=1), min_size=1
    ),
    negatives=st.integers(1, 4),
)
def test_every_selection_has_each_triplet_as_it_should(
    found: dict[str, dict[str, list[str]]], negatives: int
) -> None:
    """`found` has the negatives of each positive of each query, the hardest first."""
    pairs = [(q, p, found[q][p]) for q in sorted(found) for p in sorted(found[q])]
    score = {(q, p, n): -i / 8 for q, p, ns in pairs for i, n in enumerate(ns)}
    table = pa.Table.from_pylist(
        [
            {"query_id": q, "positive_id": p, "negative_id": f"not-{n}", "positive_score": 1.0,
             "negative_score": score[q, p, n], "rank": i + 1, "positive_grade": 2.0}
            for q, p, ns in pairs
            for i, n in enumerate(ns)
        ],
        TRIPLET_IDS,
    )  # fmt: skip
    rows_of = {
        name: rows(table, Shape(False, negatives, "run", labels="grade")).to_pylist()
        for name, rows in FORMATS["ids"].selections.items()
    }
    assert rows_of["triplet-hard"] == table.select(["query_id", "positive_id", "negative_id"]).to_pylist()
    assert [tuple(row.values()) for row in rows_of["triplet"]] == [
        (q, p, f"not-{ns[0]}") for q, p, ns in pairs
    ]
    assert rows_of["scored"] == [
        {"query_id": q, "document_ids": [p, *(f"not-{n}" for n in ns[:negatives])],
         "scores": [1.0, *(score[q, p, n] for n in ns[:negatives])]}
        for q, p, ns in pairs
        if len(ns) >= negatives
    ]  # fmt: skip
    for labeled, scored in zip(rows_of["labeled-list"], rows_of["scored-list"], strict=True):
        of_query = found[labeled["query_id"]]
        ids, good = labeled["document_ids"], len(of_query)
        assert ids[:good] == sorted(of_query)
        assert sorted(ids[good:]) == sorted({f"not-{n}" for ns in of_query.values() for n in ns})
        assert labeled["labels"] == [2.0] * good + [0.0] * (len(ids) - good)
        assert scored["document_ids"] == ids
        assert scored["scores"][:good] == [1.0] * good
    assert [row["query_id"] for row in rows_of["labeled-list"]] == sorted(found)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of ids of two splits."""
    folder = tmp_path_factory.mktemp("ids")
    with new_store(folder / "my.duckdb") as opened:
        fill(opened)
        judge(opened)
        add_dev_run(opened)
        export_run(
            opened,
            folder / "out",
            ExportConfig(run="first", format="ids", more_runs=("dev",), labels="grade"),
        )
    return folder / "out"


def load(folder: Path, config: str, split: str = "train") -> Any:
    from datasets import load_dataset

    return load_dataset(str(folder), config, split=split, cache_dir=str(folder.parent / "cache"))


@pytest.mark.slow
def test_load_dataset_loads_each_config_of_the_folder(exported: Path) -> None:
    for config in front_matter(exported)["configs"]:
        for split in config["data_files"]:
            found = load(exported, config["config_name"], split["split"])
            assert found.to_list() == rows(exported, config["config_name"], split["split"])


@pytest.mark.slow
def test_data_sets_of_one_name_load_their_own_rows(store: Database, tmp_path: Path) -> None:
    from datasets import load_dataset

    for parent, changed in (("a", "Dogs bark."), ("b", "Dogs growl."), ("c", "Dogs whine.")):
        store.execute("UPDATE documents SET text = ? WHERE doc_id = 'd3'", [changed])
        made(store, tmp_path / parent / "set", format="ids")
        found = load_dataset(
            str(tmp_path / parent / "set"), "documents", split="train", cache_dir=str(tmp_path / "cache")
        )
        assert found[3]["text"] == changed


@pytest.mark.slow
def test_pylate_finds_what_it_looks_up(exported: Path) -> None:
    """The columns that `KDProcessing` of PyLate reads (PyLate 1.4.0, pylate/utils/processing.py).

    Rows: query_id, document_ids and scores of one length. Lookups: query_id and text, document_id and text.
    """
    queries = {row["query_id"]: row["text"] for row in load(exported, "queries")}
    documents = {row["document_id"]: row["text"] for row in load(exported, "documents")}
    for row in load(exported, "scored"):
        assert isinstance(queries[row["query_id"]], str)
        assert all(isinstance(documents[one], str) for one in row["document_ids"])
        assert len(row["document_ids"]) == len(row["scores"])
        assert all(isinstance(score, float) for score in row["scores"])


TRIPLETS = ("triplet-hard", ("query_id", "positive_id", "negative_id"), {})
SCORED = ("scored", ("query_id", "document_ids"), {})
LABELED = ("labeled-list", ("query_id", "document_ids"), {"output_format": "lists"})
SCORED_LIST = ("scored-list", ("query_id", "document_ids"), {"output_format": "lists"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "selection", "loss", "rate"),
    [
        (dense, TRIPLETS, "MultipleNegativesRankingLoss", 0.02),
        (dense, SCORED, "MarginMSELoss", 0.02),
        (dense, SCORED, "DistillKLDivLoss", 0.02),
        (sparse, TRIPLETS, "SparseMultipleNegativesRankingLoss", 0.001),
        (sparse, SCORED, "SparseMarginMSELoss", 0.001),
        (sparse, SCORED, "SparseDistillKLDivLoss", 0.001),
        (multi_vector, TRIPLETS, "MultiVectorMultipleNegativesRankingLoss", 0.001),
        (multi_vector, SCORED, "MultiVectorMarginMSELoss", 0.001),
        (multi_vector, SCORED, "MultiVectorDistillKLDivLoss", 0.001),
        (cross, TRIPLETS, "MultipleNegativesRankingLoss", 0.001),
        (cross, LABELED, "LambdaLoss", 0.001),
        (cross, LABELED, "ADRMSELoss", 0.001),
        (cross, SCORED_LIST, "ADRMSELoss", 0.001),
        (cross, SCORED_LIST, "ListNetLoss", 0.001),
        (cross, SCORED, "MarginMSELoss", 0.001),
    ],
)
def test_models_of_every_type_train_through_resolve_ids(
    exported: Path,
    tmp_path: Path,
    model: Callable[[Path], Any],
    selection: tuple[str, tuple[str, ...], dict[str, str]],
    loss: str,
    rate: float,
) -> None:
    from sentence_transformers.util import resolve_ids

    config, ids, how = selection
    queries, documents = load(exported, "queries"), load(exported, "documents")
    data = load(exported, config)
    lookups = {name: queries if name == "query_id" else documents for name in ids}
    data.set_transform(resolve_ids(lookups, **how))
    losses = trained(model(tmp_path), loss, data, tmp_path / "model", steps=6, rate=rate, batch=5)
    assert losses[-1] < 0.9 * losses[0], losses
