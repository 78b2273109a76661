"""The exact rows of every format and file type."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.export import FORMATS
from miner.export.writers import WRITERS, json_lines
from miner.store.database import Database
from miner.store.scorers import Scorer
from tests.export_store import fill, made, make_run, text_of
from tests.stores import new_store


@pytest.fixture
def store(tmp_path: Path) -> Database:
    opened = new_store(tmp_path / "my.duckdb")
    fill(opened)
    return opened


TRIPLET_LINES = [
    '{"anchor": "what purrs?", "positive": "Cats They purr, mostly.", "negative": "Dogs bark."}',
    '{"anchor": "what purrs?", "positive": "Cats They purr, mostly.", "negative": "Ålesund | 日本"}',
    r'{"anchor": "what purrs?", "positive": "A \"purr\" is a sound.", "negative": "Dogs bark."}',
    r'{"anchor": "what purrs?", "positive": "A \"purr\" is a sound.", "negative": "Ålesund | 日本"}',
    r'{"anchor": "who barks?", "positive": "Dogs bark.", "negative": "Cows They\nmoo."}',
]


def test_triplet_jsonl(store: Database, tmp_path: Path) -> None:
    report = made(store, tmp_path / "out")
    assert report.data == tmp_path / "out/data/train.jsonl"
    assert report.data.read_text(encoding="utf-8").splitlines() == TRIPLET_LINES
    assert report.data.read_bytes().endswith(b'"}\n')


def test_triplet_csv(store: Database, tmp_path: Path) -> None:
    lines = text_of(store, tmp_path, file_type="csv").split("\n")
    assert lines[0] == '"anchor","positive","negative"'
    assert lines[1] == '"what purrs?","Cats They purr, mostly.","Dogs bark."'
    assert lines[3] == '"what purrs?","A ""purr"" is a sound.","Dogs bark."'
    assert lines[-3:] == ['"who barks?","Dogs bark.","Cows They', 'moo."', ""]


@pytest.mark.parametrize("name", ["triplet", "n-tuple", "labeled-pair", "labeled-list"])
@pytest.mark.parametrize("scores", [False, True])
def test_parquet_and_datasets_hold_the_rows_of_jsonl(
    store: Database, tmp_path: Path, name: str, scores: bool
) -> None:
    from datasets import load_from_disk

    lines = text_of(store, tmp_path, format=name, scores=scores).splitlines()
    parquet = made(store, tmp_path / "p", format=name, scores=scores, file_type="parquet")
    assert list(json_lines(pq.read_table(parquet.data))) == lines
    on_disk = made(store, tmp_path / "d", format=name, scores=scores, file_type="datasets")
    assert list(json_lines(load_from_disk(str(on_disk.data)).data.table)) == lines


def test_triplet_with_scores(store: Database, tmp_path: Path) -> None:
    lines = text_of(store, tmp_path, scores=True).splitlines()
    assert [json.loads(line)["scores"] for line in lines] == [
        [0.9, 0.5], [0.9, 0.25], [0.75, 0.5], [0.75, 0.25], [1.0, -0.5],
    ]  # fmt: skip


def test_n_tuple_leaves_short_rows_out_and_says_so(store: Database, tmp_path: Path) -> None:
    report = made(store, tmp_path / "out", format="n-tuple", scores=True)
    assert report.data.read_text(encoding="utf-8").splitlines() == [
        '{"anchor": "what purrs?", "positive": "Cats They purr, mostly.", "negative_1": "Dogs bark.", '
        '"negative_2": "Ålesund | 日本", "scores": [0.9, 0.5, 0.25]}',
        r'{"anchor": "what purrs?", "positive": "A \"purr\" is a sound.", "negative_1": "Dogs bark.", '
        '"negative_2": "Ålesund | 日本", "scores": [0.75, 0.5, 0.25]}',
    ]
    assert [str(item) for item in report.left_out] == [
        "queries without negatives: 1",
        "(query, positive) pairs with fewer than 2 negatives: 1",
    ]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["left_out"] == [
        {"what": "queries", "number": 1, "why": "without negatives"},
        {"what": "(query, positive) pairs", "number": 1, "why": "with fewer than 2 negatives"},
    ]
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "- (query, positive) pairs with fewer than 2 negatives: 1" in card


def test_n_tuple_with_fewer_negatives_keeps_every_pair(store: Database, tmp_path: Path) -> None:
    lines = text_of(store, tmp_path, format="n-tuple", negatives_per_row=1).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"anchor": "what purrs?", "positive": "Cats They purr, mostly.", "negative_1": "Dogs bark."},
        {"anchor": "what purrs?", "positive": 'A "purr" is a sound.', "negative_1": "Dogs bark."},
        {"anchor": "who barks?", "positive": "Dogs bark.", "negative_1": "Cows They\nmoo."},
    ]


def test_labeled_pair_has_every_pair_once(store: Database, tmp_path: Path) -> None:
    text = text_of(store, tmp_path, format="labeled-pair", file_type="csv")
    assert text == (
        '"anchor","document","label"\n'
        '"what purrs?","Cats They purr, mostly.",1\n'
        '"what purrs?","A ""purr"" is a sound.",1\n'
        '"what purrs?","Dogs bark.",0\n'
        '"what purrs?","Ålesund | 日本",0\n'
        '"who barks?","Dogs bark.",1\n'
        '"who barks?","Cows They\nmoo.",0\n'
    )


def test_labeled_pair_with_scores_has_no_label(store: Database, tmp_path: Path) -> None:
    text = text_of(store, tmp_path, format="labeled-pair", file_type="csv", scores=True)
    assert text.splitlines()[:3] == [
        '"anchor","document","score"',
        '"what purrs?","Cats They purr, mostly.",0.9',
        '"what purrs?","A ""purr"" is a sound.",0.75',
    ]


def test_labeled_list(store: Database, tmp_path: Path) -> None:
    lines = text_of(store, tmp_path, format="labeled-list").splitlines()
    assert lines == [
        r'{"query": "what purrs?", "documents": ["Cats They purr, mostly.", "A \"purr\" is a sound.", '
        '"Dogs bark.", "Ålesund | 日本"], "labels": [1, 1, 0, 0]}',
        r'{"query": "who barks?", "documents": ["Dogs bark.", "Cows They\nmoo."], "labels": [1, 0]}',
    ]
    scored = made(store, tmp_path / "scored", format="labeled-list", scores=True).data.read_text("utf-8")
    assert [json.loads(line)["scores"] for line in scored.splitlines()] == [
        [0.9, 0.75, 0.5, 0.25],
        [1.0, -0.5],
    ]


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (Scorer(0, "r1", "reranker", "r1"), "The scores are those of the reranker `r1`."),
        (
            Scorer(0, "bundled", "dense", "enc1"),
            "The scores are cosines of the encoder `bundled`: a model trained on them imitates it.",
        ),
        (
            Scorer(0, "bm25", "bm25", None),
            "The scores are BM25's: they depend only on the words that query and document share, and so do "
            "the margins that a model learns from them.",
        ),
        (Scorer(0, "run", "imported", "c1"), "The scores are those of `run`, which were given."),
    ],
)
def test_the_card_says_whose_the_scores_are(tmp_path: Path, scorer: Scorer, expected: str) -> None:
    with new_store(tmp_path / "s.duckdb") as opened:
        fill(opened, run=make_run("first", scorers=(scorer,)))
        made(opened, tmp_path / "scored", scores=True)
        made(opened, tmp_path / "bare")
    assert f"\n\n{expected}\n\n" in (tmp_path / "scored/README.md").read_text("utf-8")
    assert "The scores are" not in (tmp_path / "bare/README.md").read_text("utf-8")


def test_flagembedding(store: Database, tmp_path: Path) -> None:
    lines = text_of(store, tmp_path, format="flagembedding", scores=True).splitlines()
    assert lines[1] == (
        r'{"query": "who barks?", "pos": ["Dogs bark."], "neg": ["Cows They\nmoo."], "pos_scores": [1.0], '
        '"neg_scores": [-0.5], "query_id": "q2", "pos_id": ["d3"], "neg_id": ["d4"]}'
    )
    first = json.loads(lines[0])
    assert (first["pos_id"], first["neg_id"]) == (["d1", "d2"], ["d3", "007"])
    assert "pos_scores" not in made(store, tmp_path / "o", format="flagembedding").data.read_text("utf-8")


def test_tevatron_keeps_titles_apart(store: Database, tmp_path: Path) -> None:
    lines = text_of(store, tmp_path, format="tevatron").splitlines()
    assert lines == [
        '{"query_id": "q1", "query": "what purrs?", "positive_passages": '
        '[{"docid": "d1", "title": "Cats", "text": "They purr, mostly."}, '
        r'{"docid": "d2", "title": "", "text": "A \"purr\" is a sound."}], "negative_passages": '
        '[{"docid": "d3", "title": "", "text": "Dogs bark."}, '
        '{"docid": "007", "title": "", "text": "Ålesund | 日本"}]}',
        '{"query_id": "q2", "query": "who barks?", "positive_passages": '
        '[{"docid": "d3", "title": "", "text": "Dogs bark."}], "negative_passages": '
        r'[{"docid": "d4", "title": "Cows", "text": "They\nmoo."}]}',
    ]
    scored = made(store, tmp_path / "scored", format="tevatron", scores=True).data.read_text("utf-8")
    assert json.loads(scored.splitlines()[1])["negative_passages"][0]["score"] == -0.5


def test_reranking(store: Database, tmp_path: Path) -> None:
    lines = text_of(store, tmp_path, format="reranking").splitlines()
    assert lines[1] == (
        r'{"query": "who barks?", "positive": ["Dogs bark."], "negative": ["Cows They\nmoo."]}'
    )
    assert json.loads(lines[0]) == {
        "query": "what purrs?",
        "positive": ["Cats They purr, mostly.", 'A "purr" is a sound.'],
        "negative": ["Dogs bark.", "Ålesund | 日本"],
    }


def test_reranking_with_positives_has_the_order_of_the_candidates(store: Database, tmp_path: Path) -> None:
    """d2 is found between the negatives d3 and 007, d1 not at all; q2 finds its negative alone."""
    store.execute("INSERT INTO pool_documents VALUES ('ev', 9, 'd2')")
    store.execute(
        """UPDATE pools SET doc_nos = [doc_nos[1], 9, doc_nos[2]], exclusions = [-1, 0, -1],
            judged_negative = [false, false, false], best_ranks = [1, 2, 3], best_scorers = [0, 0, 0]
        WHERE query_id = 'q1'"""
    )
    report = made(store, tmp_path / "out", format="reranking", include_positives=True)
    rows = [json.loads(line) for line in report.data.read_text("utf-8").splitlines()]
    assert [row["documents"] for row in rows] == [
        ["Dogs bark.", 'A "purr" is a sound.', "Ålesund | 日本"],
        ["Cows They\nmoo."],
    ]
    assert [len(row["positive"]) for row in rows] == [2, 1]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))
    assert manifest["include_positives"] is True


def test_dpr_is_one_json_list(store: Database, tmp_path: Path) -> None:
    report = made(store, tmp_path / "out", format="dpr")
    assert report.data == tmp_path / "out/data/train.json"
    rows = json.loads(report.data.read_text(encoding="utf-8"))
    none = {"score": 0.0, "title_score": 0.0}
    assert rows[1] == {
        "dataset": "first",
        "question": "who barks?",
        "answers": [],
        "positive_ctxs": [{"title": "", "text": "Dogs bark.", **none, "passage_id": "d3"}],
        "negative_ctxs": [],
        "hard_negative_ctxs": [{"title": "Cows", "text": "They\nmoo.", **none, "passage_id": "d4"}],
    }
    assert [c["passage_id"] for c in rows[0]["hard_negative_ctxs"]] == ["d3", "007"]
    scored = json.loads(made(store, tmp_path / "s", format="dpr", scores=True).data.read_text("utf-8"))
    assert scored[1]["hard_negative_ctxs"][0]["score"] == -0.5


def test_negatives_that_differ_by_positive_are_merged_by_their_best_rank(tmp_path: Path) -> None:
    """With each positive its own anchor, a query's positives do not share their negatives."""
    triplets = [
        ("q1", "d1", "d3", 0.9, 0.5, 1), ("q1", "d1", "d4", 0.9, 0.25, 2),
        ("q1", "d2", "007", 0.75, 0.5, 1), ("q1", "d2", "d3", 0.75, 0.5, 2),
    ]  # fmt: skip
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store, triplets)  # type: ignore[arg-type]
        rows = json.loads(text_of(store, tmp_path, format="flagembedding"))
    assert rows["neg_id"] == ["d3", "007", "d4"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_bytes_twice(store: Database, tmp_path: Path, name: str) -> None:
    for file_type in FORMATS[name].file_types:
        if (name, file_type) == ("labeled-list", "csv"):
            continue
        scores = FORMATS[name].scores and file_type != "csv"
        for out in ("a", "b"):
            made(store, tmp_path / out, format=name, file_type=file_type, scores=scores, force=True)
        first, second = (_bytes(tmp_path / out) for out in ("a", "b"))
        assert first == second


def _bytes(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if not form.selections])
def test_small_pieces_give_the_rows_of_one_piece(
    store: Database, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = text_of(store, tmp_path, format=name)
    monkeypatch.setattr("miner.export.data.PIECE", 1)
    assert made(store, tmp_path / "pieces", format=name).data.read_text(encoding="utf-8") == whole


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_any_text_survives_every_file_type(rows: list[tuple[str, str]], tmp_path_factory: object) -> None:
    table = pa.table({"anchor": [a for a, _ in rows], "positive": [p for _, p in rows]})
    where = tmp_path_factory.mktemp("texts")  # type: ignore[attr-defined]
    for name in ("jsonl", "json", "csv", "parquet"):
        with WRITERS[name](where / name, table.schema) as write:
            write(table)
    expected = table.to_pylist()
    lines = (where / "jsonl").read_bytes().decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == expected
    assert json.loads((where / "json").read_bytes()) == expected
    assert pq.read_table(where / "parquet").to_pylist() == expected
    read = csv.DictReader(io.StringIO((where / "csv").read_bytes().decode(), newline=""))
    assert list(read) == expected
