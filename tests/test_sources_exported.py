"""What miner export writes is what ingest reads: its parts, names, splits and notes.

test_round_trip.py asserts that the texts, judgments and triplets come back.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from miner.sources.candidates import read_candidates
from tests.export_store import fill, made, make_run
from tests.sources_support import collect, refused, rows, write
from tests.stores import new_store

FORMATS = [
    "triplet",
    "n-tuple",
    "labeled-pair",
    "labeled-list",
    "flagembedding",
    "tevatron",
    "dpr",
    "reranking",
]
WITH_IDS = ("flagembedding", "tevatron")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export in each format, without and with scores."""
    folder = tmp_path_factory.mktemp("exports")
    with new_store(folder / "s.duckdb") as store:
        fill(store)
        for format in FORMATS:
            made(store, folder / format, format=format)
            if format != "reranking":
                made(store, folder / f"{format}-scores", format=format, scores=True)
        for file_type in ("csv", "parquet", "datasets"):
            made(store, folder / file_type, file_type=file_type)
    return folder


JUDGED = [("what purrs?", "d1"), ("what purrs?", "d2"), ("who barks?", "d3")]


def test_ids_come_back_with_the_formats_that_have_them(exports: Path) -> None:
    for format in WITH_IDS:
        found = collect(exports / format)
        queries = {row["query_id"]: row["text"] for row in found["queries"]}
        assert sorted(queries) == ["q1", "q2"]
        judged = [(queries[row["query_id"]], row["doc_id"]) for row in found["judgments"]]
        assert sorted(judged) == JUDGED
        assert {row["doc_id"] for row in found["documents"]} == {"d1", "d2", "d3", "d4", "007"}
    titles = {row["doc_id"]: row["title"] for row in collect(exports / "tevatron")["documents"]}
    assert titles["d1"] == "Cats"


@pytest.mark.parametrize("name", ["triplet", "csv", "parquet", "datasets"])
def test_a_file_type_makes_no_difference(exports: Path, name: str) -> None:
    assert detect(str(exports / name)) == "export"
    found = collect(exports / name)
    assert {row["relevance"] for row in found["judgments"]} == {1.0}
    assert {row["text"] for row in found["documents"]} == {
        "Cats They purr, mostly.", 'A "purr" is a sound.', "Dogs bark.", "Cows They\nmoo.", "Ålesund | 日本",
    }  # fmt: skip
    assert len(read_candidates(exports / name).table) == 6


def test_every_row_is_stored_or_left_out(exports: Path, tmp_path: Path) -> None:
    for format in FORMATS:
        found = collect(exports / format)
        lines = {(row["origin"], row["line"]) for row in found["rows"]}
        assert len(lines) == json.loads((exports / format / "manifest.json").read_text())["counts"]["rows"]
        texts = {(row["origin"], row["line"]) for row in found["queries"]}
        left = {(row["origin"], row["line"]) for row in found.get("rejected", [])}
        assert texts | left == lines
        assert not texts & left


def test_the_data_of_an_export_are_read_by_any_of_their_names(exports: Path) -> None:
    file = next((exports / "triplet" / "data").iterdir())
    for path in (exports / "triplet", exports / "triplet" / "data", file):
        assert detect(str(path)) == "export"
        assert {row["relevance"] for row in collect(path)["judgments"]} == {1.0}
        assert read_candidates(path).table["rank"].to_pylist() == [1, 2, 1, 3, 4, 2]


def test_the_same_rows_elsewhere_are_triplets_with_judged_negatives(exports: Path, tmp_path: Path) -> None:
    file = next((exports / "triplet" / "data").iterdir())
    copied = write(tmp_path / "train.jsonl", file.read_bytes())
    assert detect(str(copied)) == "table"
    assert {row["relevance"] for row in collect(copied)["judgments"]} == {1.0, 0.0}


def test_the_split_is_that_of_the_run(tmp_path: Path) -> None:
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store, run=make_run("odd", split="my split"))
        made(store, tmp_path / "out")
    assert {row["split"] for row in collect(tmp_path / "out")["judgments"]} == {"my split"}
    assert {row["split"] for row in collect(tmp_path / "out", split="dev")["judgments"]} == {"dev"}


def test_notes_say_what_became_of_the_negatives_and_list_other_files(exports: Path, tmp_path: Path) -> None:
    out = exports / "tevatron"
    write(out / "more.txt", "…")
    source = open_source(str(out), SourceConfig())
    assert source.note.splitlines() == [
        "not read: more.txt (not the rows of the export)",
        "its negatives were mined, so they are documents without a judgment; "
        f"miner mine --candidates {out} reads them",
    ]
    assert source.read_as == (
        "an export of miner, Tevatron: query_id = query id, query = query, positive_passages = positives, "
        "negative_passages = negatives (mined, not judged)"
    )


@pytest.mark.parametrize("form", ["labeled-pair", "labeled-list"])
def test_an_export_of_scores_instead_of_labels_says_that_nothing_in_it_is_judged(
    tmp_path: Path, form: str
) -> None:
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store)
        made(store, tmp_path / "out", format=form, scores=True)
    read = collect(tmp_path / "out")
    assert "judgments" not in read
    assert open_source(str(tmp_path / "out"), SourceConfig()).note.splitlines()[0] == (
        "its rows have scores and no labels, so all are documents without a judgment: ingest the judgments "
        "of its queries too, or export it without --scores; "
        f"miner mine --candidates {tmp_path / 'out'} reads them"
    )


def test_a_broken_export_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, write(tmp_path / "x" / "data" / "t.jsonl", "{}").parent, format="export")
    assert message == (
        "DIR/x/data: not an export, since it has no manifest.json of one; name the folder that miner export "
        "wrote, or leave --format out"
    )
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store)
        made(store, tmp_path / "out")
    next((tmp_path / "out" / "data").iterdir()).unlink()
    assert refused(tmp_path, tmp_path / "out") == (
        "DIR/out: an export without rows in data; export the run again"
    )
    with pytest.raises(InputError):
        read_candidates(tmp_path / "out")


@pytest.fixture(scope="module")
def id_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of ids of a run of the split dev_small."""
    folder = tmp_path_factory.mktemp("ids")
    with new_store(folder / "s.duckdb") as store:
        fill(store, run=make_run("small", split="dev_small"))
        made(store, folder / "out", format="ids")
    return folder / "out"


def test_a_part_of_an_export_of_ids_is_refused(id_export: Path) -> None:
    for part in (id_export / "triplet-hard", next((id_export / "triplet").iterdir())):
        with pytest.raises(InputError, match="a part of an export, whose negatives were mined"):
            open_source(str(part), SourceConfig())
    assert len(collect(id_export / "documents")["documents"]) > 0


def test_the_splits_of_an_export_of_ids_keep_their_names(id_export: Path) -> None:
    assert {row["split"] for row in collect(id_export)["judgments"]} == {"dev_small"}


def test_the_negatives_of_an_export_on_the_hub_are_mined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store)
        made(store, tmp_path / "out")
    assert {row["relevance"] for row in collect(f"hf:{tmp_path / 'out'}")["judgments"]} == {1.0}


def test_parts_of_an_export_of_ids_on_the_hub_are_mined(
    id_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    whole = collect(f"hf:{id_export}")["judgments"]
    pairs = sorted({(row["query_id"], row["doc_id"], row["relevance"]) for row in whole})
    assert pairs == [("q1", "d1", 1.0), ("q1", "d2", 1.0), ("q2", "d3", 1.0)]
    for part in ("triplet", "triplet-hard", "labeled-list"):
        found = collect(f"hf:{id_export}:{part}")["judgments"]
        assert sorted({(row["query_id"], row["doc_id"], row["relevance"]) for row in found}) == pairs
        assert {row["split"] for row in found} == {"dev_small"}
    source = open_source(f"hf:{id_export}:triplet-hard", SourceConfig())
    assert source.read_as.endswith("negative_id = ids of negatives; negatives were mined, not judged")
    store = tmp_path / "s.duckdb"
    ingest(store, [f"hf:{id_export}:{part}" for part in ("queries", "documents", "triplet-hard")])
    assert rows(store, "SELECT count(*), min(relevance) FROM judgments") == [(3, 1.0)]


def test_titles_that_do_not_fit_the_documents_are_refused(id_export: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(id_export, tmp_path / "set"))
    file = next((copied / "titles").iterdir())
    pq.write_table(pq.read_table(file).sort_by([("document_id", "descending")]), file)
    assert refused(tmp_path, copied) == (
        "DIR/set/titles/train-00000-of-00001.parquet:2: the title of 'd1', which is not a document, or comes "
        "too late; write titles in the order of the documents, or remove that part"
    )
    shutil.rmtree(copied / "titles")
    assert {row["title"] for row in collect(copied)["documents"]} == {""}
