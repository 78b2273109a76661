"""What miner export writes is what ingest reads: the same queries, documents, judgments and triplets."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import miner
from miner.errors import InputError
from miner.export import FORMATS as EXPORTED
from miner.export import ExportConfig, export_run
from miner.export.formats import Shape
from miner.export.writers import WRITERS
from miner.sources import SourceConfig, detect, ingest, open_source
from miner.sources.candidates import read_candidates
from miner.store.database import Database
from miner.store.triplets import TRIPLET_TEXTS
from miner.text import clean
from tests.export_store import DOCUMENTS as DOCUMENTS_OF_STORE
from tests.export_store import fill, made, make_run
from tests.sources_support import beir, collect, jsonl, refused, rows, write

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
UNLABELLED = ("labeled-pair", "labeled-list")
"""Formats in which scores replace the labels."""
WITH_IDS = ("flagembedding", "tevatron")
WITH_TITLES = ("tevatron", "dpr")
"""Formats with the title and the text of a document apart; `ids` has a test of its own."""

MARKS = [
    "\t",
    '"',
    '""',
    "'",
    "\n",
    "\r\n",
    ",",
    "שלום",
    "مرحبا",
    "日本語テキスト",
    "\\",
    "a b",
    "NA",
    "1.0",
    "[x]",
]
TEXTS = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=8)), max_size=5).map("".join)


def numbered(texts: list[str]) -> list[str]:
    """Returns the texts with a number each, so that none is empty, equals or contains another one."""
    return [clean(f"<{number:03}>{text}.")[0] for number, text in enumerate(texts)]


def joined(title: str, text: str) -> str:
    """Returns a document as one text, as formats without titles have it."""
    return f"{title} {text}" if title else text


def triplets_of(texts: list[str], titles: list[str]) -> pa.Table:
    """Returns the triplets of two queries with two positives and the two other documents each."""
    texts = numbered(texts)
    documents = [(clean(title)[0], text) for title, text in zip(titles, texts[2:], strict=True)]
    rows = [
        (f"q{q}", texts[q], f"d{p}", *documents[p], f"d{n}", *documents[n], 5.0 - p / 8, 2.0 - rank / 8, rank)
        for q in range(2)
        for p in (q, q + 1)
        for rank, n in enumerate((n for n in range(4) if n not in (q, q + 1)), 1)
    ]
    names = [
        *("query_id", "query", "positive_id", "positive_title", "positive_text"),
        *("negative_id", "negative_title", "negative_text", "positive_score", "negative_score", "rank"),
    ]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    others = {name: [1] * len(rows) for name in TRIPLET_TEXTS.names if name not in columns}
    return pa.table(columns | others).select(TRIPLET_TEXTS.names).cast(TRIPLET_TEXTS)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(TEXTS, min_size=6, max_size=6),
    st.lists(st.one_of(st.just(""), TEXTS), min_size=4, max_size=4),
    st.sampled_from(FORMATS),
    st.booleans(),
    st.data(),
)
def test_any_texts_come_back(
    texts: list[str], titles: list[str], name: str, scores: bool, data: st.DataObject
) -> None:
    scores = scores and name != "reranking"
    triplets, form = triplets_of(texts, titles), EXPORTED[name]
    rows = form.rows(triplets, Shape(scores, 2, "r"))
    flat = [one for one in form.file_types if one != "datasets" and not (one == "csv" and scores)]
    nested = any(pa.types.is_nested(column.type) for column in rows.schema)
    file_type = data.draw(st.sampled_from([one for one in flat if one != "csv" or not nested]))
    with tempfile.TemporaryDirectory() as folder:
        write(
            Path(folder) / "manifest.json",
            json.dumps({"run": {"split": "train"}, "written_by": "hardneg-miner"}),
        )
        (Path(folder) / "data").mkdir()
        with WRITERS[file_type](Path(folder) / "data" / f"train.{file_type}", rows.schema) as writer:
            writer(rows)
        found, candidates = collect(folder), read_candidates(folder).table.to_pylist()
    assert "rejected" not in found
    queries = {row["query_id"]: row["text"] for row in found["queries"]}
    documents = {row["doc_id"]: joined(row["title"], row["text"]) for row in found["documents"]}
    expected = triplets.to_pylist()
    assert set(queries.values()) == {row["query"] for row in expected}
    columns = [(f"{side}_title", f"{side}_text") for side in ("positive", "negative")]
    given_texts = {(row[title], row[text]) for row in expected for title, text in columns}
    assert set(documents.values()) == {joined(*one) for one in given_texts}
    if name in WITH_TITLES:
        assert {(row["title"], row["text"]) for row in found["documents"]} == given_texts
    pairs = {
        side: {
            (row["query"], joined(row[f"{side}_title"], row[f"{side}_text"])): row[f"{side}_score"]
            for row in expected
        }
        for side in ("positive", "negative")
    }
    judged = [(queries[row["query_id"]], documents[row["doc_id"]]) for row in found.get("judgments", [])]
    assert set(judged) == (set() if scores and name in UNLABELLED else set(pairs["positive"]))
    seen = {(queries[row["query_id"]], documents[row["doc_id"]]): row["score"] for row in candidates}
    assert set(seen) == {*pairs["positive"], *pairs["negative"]}
    if scores:
        assert seen == pairs["positive"] | pairs["negative"]


DOCUMENTS = "SELECT text FROM document_texts"
QUERIES = "SELECT text FROM queries"
JUDGMENTS = """SELECT q.text, d.text, relevance, split FROM judgments
    JOIN queries q USING (query_id) JOIN document_texts d USING (doc_id)"""
TITLES = "SELECT doc_id, title, text FROM documents ORDER BY doc_id"
TRIPLETS = "SELECT query, positive, negative FROM triplet_texts"


def content(store: Path) -> list[list[tuple[Any, ...]]]:
    return [sorted(set(rows(store, query))) for query in (DOCUMENTS, QUERIES, JUDGMENTS)]


def mined(store: Path, candidates: Path) -> list[tuple[Any, ...]]:
    """Mines all negatives among the candidates; returns the texts of the triplets."""
    miner.mine(str(store), candidates=[str(candidates)], bm25=False, negatives=20, relative_margin=0.0)
    return sorted(set(rows(store, TRIPLETS)))


def test_ingest_mine_export_ingest_mine_gives_the_same(tmp_path: Path) -> None:
    texts = numbered(['\t"a"\n', "שלום مرحبا", "日本語テキスト", "a, b", "\r\n''", "NA"])
    judged = [(f"q{q}", f"d{p}", 1) for q in range(2) for p in (q, q + 1)]
    ids = [f"d{number}" for number in range(4)]
    folder = beir(
        tmp_path / "set",
        dict(zip(ids, zip(["", "a title", "שלום", "\t"], texts[2:], strict=True), strict=True)),
        {"q0": texts[0], "q1": texts[1]},
        train=judged,
    )
    run = [
        {"query_id": f"q{q}", "doc_id": f"d{d}", "score": 2 - d / 8 + 3 * (d in (q, q + 1))}
        for q in range(2)
        for d in range(4)
    ]
    first = tmp_path / "first.duckdb"
    ingest(first, str(folder))
    triplets = mined(first, write(tmp_path / "run.jsonl", jsonl(*run)))
    assert len(triplets) == 8
    for format, scores in (("triplet", False), ("flagembedding", True), ("tevatron", False), ("ids", False)):
        out, again = tmp_path / format, tmp_path / f"{format}.duckdb"
        with Database.open(first, read_only=True) as store:
            export_run(store, out, ExportConfig(format=format, scores=scores))
        assert ingest(again, str(out)).rejected == ()
        assert content(again) == content(first)
        assert mined(again, out) == triplets
        if format in ("tevatron", "ids"):
            assert rows(again, TITLES) == rows(first, TITLES)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export in each format, without and with scores."""
    folder = tmp_path_factory.mktemp("exports")
    with Database.open(folder / "s.duckdb", create=True) as store:
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
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
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
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
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
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
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
    with Database.open(folder / "s.duckdb", create=True) as store:
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
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
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


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.just(""), TEXTS), TEXTS), min_size=5, max_size=5))
def test_titles_come_back_from_an_export_of_ids(found: list[tuple[str, str]]) -> None:
    texts = numbered([text for _, text in found])
    titles = [clean(title)[0] for title, _ in found]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Database.open(folder / "s.duckdb", create=True) as store:
            fill(store)
            for (doc_id, _, _), title, text in zip(DOCUMENTS_OF_STORE, titles, texts, strict=True):
                store.execute(
                    "UPDATE documents SET title = $1, text = $2 WHERE doc_id = $3", [title, text, doc_id]
                )
            made(store, folder / "out", format="ids")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("miner.sources.tabular.ROWS_PER_BATCH", 2)
            documents = collect(folder / "out")["documents"]
    assert sorted((row["doc_id"], row["title"], row["text"]) for row in documents) == sorted(
        (doc_id, *pair)
        for (doc_id, _, _), pair in zip(DOCUMENTS_OF_STORE, zip(titles, texts, strict=True), strict=True)
    )


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
