"""Training from a store: which rows a run or judgments give, what is masked, scored, noted and refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from miner.errors import MinerError, StoreError, UsageError
from miner.models.encoder import Encoder
from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.models import model_name, training_positives
from miner.store.runs import begin_run, find_run, finish_run
from miner.store.triplets import TextsById, known_pair_keys, mined_pairs
from miner.text import text_key, text_keys
from miner.training.encoder_config import LOSSES, EncoderConfig
from miner.training.examples import Columns, Examples
from miner.workflows.run_rows import rows_of, usable
from miner.workflows.train import Dev, TrainingRows, dev_task, known_positives, train
from tests.evaluation_support import add_judgments
from tests.export_store import fill, make_run, selected_of
from tests.stores import make_store, new_store
from tests.train_support import PAIRED, Notes, frozen

__all__ = ["frozen"]

CONFIG = EncoderConfig(
    base="scratch", dimension=8, batch_size=4, epochs=2, evaluations=0, dtype="fp32", threads=1
)
SCORED = replace(CONFIG, evaluations=1)
DOCUMENTS = {
    "cat": "a cat purrs", "lion": "a lion purrs", "dog": "a dog barks", "fox": "a fox barks",
    "cow": "a cow moos", "owl": "an owl hoots", "bee": "a bee hums", "Cat": "A  cat purrs",
}  # fmt: skip
QUERIES = {
    "purr": "who purrs", "bark": "who barks", "moo": "who moos", "hoot": "who hoots", "hum": "who hums",
    "again": "Who  purrs",
}  # fmt: skip
GOLD = [
    ("purr", "cat"), ("purr", "lion"), ("bark", "dog"), ("moo", "cow"),
    ("hoot", "owl", "dev"), ("hum", "bee", "test"),
]  # fmt: skip
SILVER = [("bark", "fox", 0.75, "train"), ("moo", "dog", 0.0, "train")]
TRIPLETS = [
    ("bark", "dog", "cat", 0.9, 0.3, 1),
    ("purr", "cat", "cow", 0.8, 0.4, 1),
    ("purr", "cat", "dog", 0.8, 0.2, 2),
    ("purr", "cat", "owl", 0.8, 0.1, 3),
    ("purr", "lion", "cow", 0.7, 0.4, 1),
    ("purr", "lion", "dog", 0.7, 0.2, 2),
    ("purr", "lion", "owl", 0.7, 0.1, 3),
]


NO_DECISIONS = pa.table({"query_no": pa.array([], pa.int32()), "codes": pa.array([], pa.list_(pa.int16()))})


def add_run(store: Database, name: str, triplets: list[tuple[Any, ...]], **changes: Any) -> None:
    """Enters a finished run with these triplets."""
    run = make_run(name, **{"negatives": 3, "inputs": content_hashes(store, "train"), **changes})
    begin_run(store, run)
    if not triplets:
        finish_run(store, run.run_id, [])
        return
    known = store.table("SELECT doc_no, doc_id FROM pool_documents WHERE evidence = ?", [run.evidence])
    ids = sorted({*known["doc_id"].to_pylist(), *(row[2] for row in triplets)})
    store.execute("DELETE FROM pool_documents WHERE evidence = ?", [run.evidence])
    numbers = pa.table({"doc_no": pa.array(range(len(ids)), pa.int32()), "doc_id": ids})
    store.insert("pool_documents", numbers, evidence=run.evidence)
    finish_run(store, run.run_id, [{"selected": selected_of(triplets, ids)}])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with make_store(tmp_path / "my.duckdb", DOCUMENTS, QUERIES, GOLD) as store:
        add_judgments(store, SILVER, source="silver")
        add_run(store, "short", TRIPLETS[:1])
        add_run(store, "first", TRIPLETS)
        yield store


@pytest.fixture
def path(store: Database, tmp_path: Path) -> Path:
    """The same store, closed."""
    store.close()
    return tmp_path / "my.duckdb"


def rows_for(store: Database, loss: str, negatives: int = 1) -> Examples:
    pairs = usable(mined_pairs(store, find_run(store, "first")), negatives, "run first")
    return rows_of(TextsById(store), pairs, loss, negatives, "run first")


def refusal(source: Path, out: Path, rows: TrainingRows | None = None, **settings: Any) -> str:
    config = settings.pop("config", CONFIG)
    with pytest.raises(MinerError) as caught:
        train(source, out, config, rows, **settings)
    assert not out.exists()
    return str(caught.value).replace(f"{source.parent}/", "")


def trained(
    path: Path, out: Path, rows: TrainingRows | None = None, loss: str = "mnr", **settings: Any
) -> list[str]:
    """Trains and returns what was said."""
    notes = Notes()
    config = replace(CONFIG, loss=loss, evaluations=settings.pop("evaluations", 0))
    train(path, out, config, rows, progress=notes, **settings)
    return notes.said


def positives_seen(path: Path, out: Path) -> list[tuple[str, str]]:
    """What the store knows of the model's training, the same in both dtypes."""
    found = []
    with Database.open(path) as store:
        for dtype in ("fp32", "bf16"):
            model = Encoder(str(out), dtype=dtype).fingerprint
            assert model_name(store, model) == str(out)
            table = training_positives(store, model)
            found.append(list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True)))
    assert found[0] == found[1]
    return found[0]


def test_positives_of_a_query_take_turns_at_its_negatives(store: Database) -> None:
    texts = rows_for(store, "mnr").texts
    assert list(texts) == ["anchor", "positive", "negative"]
    assert list(zip(*texts.values(), strict=True)) == [
        ("who barks", "a dog barks", "a cat purrs"),
        ("who purrs", "a cat purrs", "a cow moos"),
        ("who purrs", "a lion purrs", "a dog barks"),
    ]


def test_more_negatives_go_round_and_queries_with_fewer_are_left_out(store: Database) -> None:
    texts = rows_for(store, "mnr", 3).texts
    assert list(texts) == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert list(zip(*texts.values(), strict=True)) == [
        ("who purrs", "a cat purrs", "a cow moos", "a dog barks", "an owl hoots"),
        ("who purrs", "a lion purrs", "a dog barks", "an owl hoots", "a cow moos"),
    ]


def test_negatives_are_repeated_rather_than_rows_lost(path: Path, tmp_path: Path) -> None:
    rows = TrainingRows(negatives_per_row=3)
    assert "1 positive has fewer than 3 negatives: left out" in trained(path, tmp_path / "a", rows)
    notes = trained(path, tmp_path / "b", replace(rows, fewer_negatives="repeat"))
    assert "1 positive has fewer than 3 negatives, which are repeated" in notes
    assert "3 rows of anchor, positive, negative_1, negative_2, negative_3 from run first" in notes
    with Database.open(path, read_only=True) as store:
        pairs = usable(mined_pairs(store, find_run(store, "first")), 3, "run first", "repeat")
        texts = rows_of(TextsById(store), pairs, "distill", 3, "run first")
    first = next(zip(*texts.texts.values(), strict=True))
    assert first == ("who barks", "a dog barks", "a cat purrs", "a cat purrs", "a cat purrs")
    assert (texts.target or [])[0] == [0.9, 0.3, 0.3, 0.3]
    with pytest.raises(UsageError, match="fewer_negatives is for rows with negatives of a run; leave it out"):
        TrainingRows(row_negatives="in-batch", fewer_negatives="repeat")
    with pytest.raises(UsageError, match="fewer_negatives must be one of leave-out, repeat, got 'pad'"):
        TrainingRows(fewer_negatives="pad")


def test_scores_go_with_their_texts(store: Database) -> None:
    assert rows_for(store, "margin-mse").target == [[0.9, 0.3], [0.8, 0.4], [0.7, 0.2]]
    assert rows_for(store, "margin-mse", 2).target == [[0.8, 0.4, 0.2], [0.7, 0.2, 0.1]]
    assert rows_for(store, "mnr").target is None


@pytest.mark.parametrize("loss", ["cosine", "softmax"])
def test_losses_of_labelled_pairs_get_positives_and_negatives(store: Database, loss: str) -> None:
    found = rows_for(store, loss)
    rows = list(zip(*found.texts.values(), found.target or (), strict=True))
    assert rows[:4] == [
        ("who barks", "a dog barks", 1.0),
        ("who barks", "a cat purrs", 0.0),
        ("who purrs", "a cat purrs", 1.0),
        ("who purrs", "a cow moos", 0.0),
    ]
    more = rows_for(store, loss, 2)
    assert list(zip(*more.texts.values(), more.target or (), strict=True))[:3] == [
        ("who purrs", "a cat purrs", 1.0),
        ("who purrs", "a cow moos", 0.0),
        ("who purrs", "a dog barks", 0.0),
    ]


def test_titles_go_before_the_text(tmp_path: Path) -> None:
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store)
        pairs = usable(mined_pairs(store, find_run(store)), 2, "run first")
        texts = rows_of(TextsById(store), pairs, "mnr", 2, "run first").texts
    assert texts["positive"][:2] == ["Cats They purr, mostly.", 'A "purr" is a sound.']


def test_a_run_without_enough_negatives_says_so(store: Database) -> None:
    with pytest.raises(UsageError) as caught:
        rows_for(store, "mnr", 4)
    assert str(caught.value) == "no query of run first has 4 negatives; lower negatives_per_row"
    with pytest.raises(UsageError) as wide:
        rows_for(store, "triplet", 2)
    assert (
        str(wide.value)
        == "2 negatives per row are too many for loss triplet: at most 1; use negatives_per_row 1"
    )
    add_run(store, "empty", [])
    with pytest.raises(UsageError) as none:
        usable(mined_pairs(store, find_run(store, "empty")), 1, "run empty")
    assert str(none.value) == (
        "run empty has no triplets to train on; mine with other rules, or another --run"
    )


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in PAIRED])
def test_every_loss_trains_on_a_run(path: Path, tmp_path: Path, loss: str) -> None:
    said = trained(path, tmp_path / "out", loss=loss)
    rows = (
        "6 rows of anchor, document"
        if loss in ("cosine", "softmax")
        else "3 rows of anchor, positive, negative"
    )
    assert said[loss in ("margin-mse", "distill")] == f"{rows} from run first"
    seen = [("bark", "dog"), ("purr", "cat"), ("purr", "lion")]
    assert positives_seen(path, tmp_path / "out") == seen


def test_the_last_run_is_taken_unless_one_is_named(path: Path, tmp_path: Path) -> None:
    assert trained(path, tmp_path / "a")[0].endswith(" from run first")
    assert trained(path, tmp_path / "b", TrainingRows(run="short"))[0].startswith("1 rows of ")
    assert positives_seen(path, tmp_path / "b") == [("bark", "dog")]
    assert refusal(path, tmp_path / "c", TrainingRows(run="frist")) == (
        "no run 'frist' in my.duckdb (did you mean 'first'?); runs there: first, short"
    )


_JUDGED = [("bark", "dog"), ("moo", "cow"), ("purr", "cat"), ("purr", "lion")]


@pytest.mark.parametrize(
    ("judgments", "rows", "seen"),
    [
        ("gold", 4, _JUDGED),
        ("silver", 2, [("bark", "fox"), ("moo", "bee")]),
        ("both", 6, [*_JUDGED[:1], ("bark", "fox"), ("moo", "bee"), *_JUDGED[1:]]),
    ],
)
def test_judged_positives_are_rows_and_are_noted(
    path: Path, tmp_path: Path, judgments: str, rows: int, seen: list[tuple[str, str]]
) -> None:
    with Database.open(path) as store:
        add_judgments(store, [("moo", "bee", 0.9, "train")], source="silver")
    said = trained(path, tmp_path / "out", TrainingRows(judgments=judgments))
    assert said[0] == f"{rows} rows of anchor, positive from {judgments} judgments"
    assert positives_seen(path, tmp_path / "out") == seen


def test_judged_negatives_are_rows_of_losses_with_labels(path: Path, tmp_path: Path) -> None:
    seen = [("bark", "fox")]
    assert trained(path, tmp_path / "a", TrainingRows(judgments="silver"), "cosine")[0].startswith(
        "2 rows of "
    )
    assert trained(path, tmp_path / "b", TrainingRows(judgments="silver"), "softmax")[0].startswith(
        "2 rows of "
    )
    assert positives_seen(path, tmp_path / "a") == positives_seen(path, tmp_path / "b") == seen
    notes = trained(path, tmp_path / "c", TrainingRows(judgments="both", columns=Columns(most=2.0)), "cosine")
    assert notes[0] == "6 rows of anchor, positive from both judgments"
    assert (
        refusal(
            path,
            tmp_path / "d",
            TrainingRows(judgments="gold"),
            config=EncoderConfig(loss="softmax", base="scratch"),
        )
        == "gold judgments: all rows are of class 'relevant', a classifier needs two; "
        "add rows of another class, or use a loss that needs none, such as mnr"
    )


def test_silver_relevances_are_probabilities_whatever_gold_ones_are_divided_by(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    with make_store(path, DOCUMENTS, QUERIES, []) as store:
        add_judgments(store, [("bark", "dog", 4.0, "train"), ("purr", "cat", 2.0, "train")])
        add_judgments(store, SILVER, source="silver")
    rows = TrainingRows(judgments="both", columns=Columns(most=5.0))
    report = train(path, tmp_path / "out", replace(CONFIG, loss="cosine"), rows)
    pairs = {("bark", "dog"): 0.8, ("bark", "fox"): 0.75, ("moo", "dog"): 0.0, ("purr", "cat"): 0.4}
    texts = {
        "anchor": [QUERIES[query] for query, _ in pairs],
        "positive": [DOCUMENTS[doc] for _, doc in pairs],
    }
    assert report.metrics.data == Examples(texts, list(pairs.values())).fingerprint


def test_graded_judgments_are_noted_where_the_loss_does_not_read_them(path: Path, tmp_path: Path) -> None:
    with Database.open(path) as store:
        add_judgments(store, [("hoot", "owl", 3.0, "train")])
        add_judgments(store, [("moo", "bee", 0.9, "train")], source="silver")
    said = trained(path, tmp_path / "a", TrainingRows(judgments="gold"))
    assert said[0] == "gold judgments are graded: loss mnr treats every relevance above 0 alike"
    assert "graded" not in trained(path, tmp_path / "b", TrainingRows(judgments="silver"))[0]


def test_judgments_of_another_split(path: Path, tmp_path: Path) -> None:
    with Database.open(path) as store:
        add_judgments(store, [("moo", "owl", 1.0, "test")])
    trained(path, tmp_path / "out", TrainingRows(judgments="gold", split="test"))
    assert positives_seen(path, tmp_path / "out") == [("hum", "bee"), ("moo", "owl")]
    assert refusal(path, tmp_path / "x", TrainingRows(judgments="gold", split="tset")) == (
        "split 'tset' has no judgments of source gold; choose another split: dev, test, train"
    )


def test_a_finished_training_is_noted_in_another_store_too(path: Path, tmp_path: Path) -> None:
    trained(path, tmp_path / "out")
    copy = tmp_path / "copy.duckdb"
    copy.write_bytes(path.read_bytes())
    with Database.open(copy) as store:
        store.execute("DELETE FROM training_positives")
        store.execute("DELETE FROM models")
    assert trained(copy, tmp_path / "out")[-1] == f"{tmp_path}/out holds this encoder already"
    assert len(positives_seen(copy, tmp_path / "out")) == 3


def pair_keys(store: Database, *sources: str) -> set[tuple[int, int]]:
    table = known_pair_keys(store, sources)
    return set(zip(table["query_key"].to_pylist(), table["doc_key"].to_pylist(), strict=True))


def keys_of(pairs: list[tuple[str, str]]) -> set[tuple[int, int]]:
    return {(text_key(QUERIES[query]), text_key(DOCUMENTS[doc])) for query, doc in pairs}


def test_silver_is_known_only_to_trainings_on_silver(store: Database) -> None:
    gold = keys_of([(query, doc) for query, doc, *_ in GOLD])
    silver = keys_of([("bark", "fox")])
    assert pair_keys(store, "gold") == gold, "of every split"
    assert pair_keys(store, "silver") == silver
    assert pair_keys(store, "gold", "silver") == gold | silver
    assert [TrainingRows(judgments=name).sources for name in (None, "gold", "silver", "both")] == [
        ("gold",), ("gold",), ("silver",), ("gold", "silver"),
    ]  # fmt: skip


def test_positives_are_known_by_what_they_say(store: Database) -> None:
    known = known_positives(store)
    mask = known.mask(
        text_keys(["WHO purrs", "who barks"]), text_keys(["A cat PURRS", "a fox barks", "a dog barks"])
    )
    np.testing.assert_array_equal(mask, [[True, False, False], [False, False, True]])
    assert (
        known_positives(store, ("silver",))
        .mask(text_keys(["who barks"]), text_keys(["a fox barks", "a dog barks"]))
        .all()
    )


def test_what_the_store_knows_is_masked(tmp_path: Path) -> None:
    """In a batch of all three pairs, two documents are positives of other queries, in other splits."""
    source, found = tmp_path / "pairs.duckdb", {}
    queries = {"q1": "who purrs", "q2": "who sings", "q3": "who hums"}
    gold = [("q1", "cat"), ("q2", "owl"), ("q3", "bee"), ("q1", "owl", "dev"), ("q2", "bee", "test")]
    make_store(source, DOCUMENTS, queries, gold).close()
    for mask in (True, False):
        config = replace(CONFIG, mask=mask, batch_size=3, epochs=1)
        report = train(source, tmp_path / str(mask), config, TrainingRows(judgments="gold"))
        found[mask] = report.metrics.losses[0][1]
    assert found[True] < found[False]


def test_the_dev_split_is_scored_by_itself_unless_another_is_named(path: Path, tmp_path: Path) -> None:
    by_itself = trained(path, tmp_path / "a", evaluations=1)
    assert by_itself[2].startswith("step 0: dev nDCG@10 ")
    assert any(note.startswith("step 2: dev nDCG@10 ") for note in by_itself)
    named = trained(path, tmp_path / "b", dev=Dev(split="test"), evaluations=1)
    assert any(note.startswith("step 2: dev nDCG@10 ") for note in named)
    with Database.open(path) as store:
        tasks = [dev_task(store, split) for split in (None, "dev", "test")]
    assert all(task is not None and task.measure == "nDCG@10" for task in tasks)
    contents = [task.content for task in tasks if task is not None]
    assert contents[0] == contents[1] != contents[2]


def test_rows_of_the_split_that_chooses_the_model_are_refused(path: Path, tmp_path: Path) -> None:
    same = tmp_path / ".." / tmp_path.name / "my.duckdb"
    otherwise = "choose it with another split, --set dev_split=SPLIT, or with none, --set evaluations=0"
    for rows, settings, what in (
        (TrainingRows(judgments="gold", split="dev"), {}, "split 'dev'"),
        (TrainingRows(judgments="gold", split="test"), {"dev": Dev(split="test")}, "split 'test'"),
        (TrainingRows(), {"dev": Dev(same, "train")}, "run first is of split 'train', which"),
    ):
        assert refusal(path, tmp_path / "x", rows, config=SCORED, **settings) == (
            f"{what} is trained on and cannot also choose the model; {otherwise}"
        )
    with Database.open(path) as store:
        add_run(store, "tested", [("hoot", "owl", "cat", 0.9, 0.3, 1)], split="dev")
    assert refusal(path, tmp_path / "x", config=SCORED) == (
        "run tested is of split 'dev', which is trained on and cannot also choose the model; "
        f"train on a run of another split, --run short; or {otherwise}"
    )


class Writing(Notes):
    """Writes into a store whenever something is noted of a step."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.writes = path, 0

    def note(self, message: str) -> None:
        if message.startswith("step "):
            with Database.open(self.path) as store:
                store.execute("DELETE FROM training_positives")
            self.writes += 1


def test_others_may_write_into_the_store_during_the_training(path: Path, tmp_path: Path) -> None:
    writing = Writing(path)
    train(path, tmp_path / "out", SCORED, progress=writing)
    assert writing.writes > 1
    assert len(positives_seen(path, tmp_path / "out")) == 3


def test_the_figures_say_what_was_trained_and_scored_on(path: Path, tmp_path: Path) -> None:
    metrics = train(path, tmp_path / "out", SCORED, TrainingRows(run="first")).metrics
    assert metrics.dev == "split dev of my.duckdb, at most 500 queries and 5,000 documents"
    assert (metrics.about["source"], metrics.about["run"], metrics.about["negatives_per_row"]) == (
        "my.duckdb", "first", 1,
    )  # fmt: skip


def test_a_missing_dev_split_is_noted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    make_store(path, DOCUMENTS, QUERIES, [GOLD[0], GOLD[2], GOLD[5]]).close()
    said = trained(path, tmp_path / "out", TrainingRows(judgments="gold"), evaluations=1)
    assert said[0] == "no dev split to score on: the last model is kept"
    assert refusal(
        path, tmp_path / "x", TrainingRows(judgments="gold"), dev=Dev(split="tset"), config=SCORED
    ) == (
        "nothing is judged in split 'tset' of my.duckdb (did you mean 'test'?); "
        "choose one with --set dev_split=SPLIT: test"
    )


def test_another_store_can_be_scored_on(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    graded = [("purr", "cat", 1.0, "dev"), ("purr", "dog", 0.0, "dev"), ("bark", "cat", 0.5, "dev")]
    with make_store(other, DOCUMENTS, QUERIES, []) as store:
        add_judgments(store, [*graded, ("bark", "dog", 0.75, "dev")])
    said = trained(path, tmp_path / "a", dev=Dev(other), evaluations=1)
    assert said[2].startswith("step 0: dev Spearman "), "graded pairs are scored by similarity"
    rows = tmp_path / "rows.tsv"
    rows.write_text("anchor\tpositive\nwho purrs\ta cat purrs\nwho barks\ta dog barks\n")
    said = trained(rows, tmp_path / "b", dev=Dev(path, "train"), evaluations=1)
    assert said[0] == f"2 rows of anchor, positive from {rows}"
    assert said[1].startswith("step 0: dev nDCG@10 ")
    same = Dev(tmp_path / ".." / tmp_path.name / "my.duckdb")
    said = trained(path, tmp_path / "c", dev=same, evaluations=1)
    assert said[2].startswith("step 0: dev nDCG@10 "), "the very store that is trained on"


def test_what_the_judgments_are_for_can_be_said(path: Path, tmp_path: Path) -> None:
    other, grades = tmp_path / "other.duckdb", {"purr": 3.0, "bark": 1.0, "moo": 2.0}
    with make_store(other, DOCUMENTS, QUERIES, []) as store:
        add_judgments(store, [(query, "cat", grade, "dev") for query, grade in grades.items()])
    for task, measure in (("auto", "nDCG@10"), ("similarity", "Spearman")):
        said = trained(path, tmp_path / task, dev=Dev(other, task=task), evaluations=1)
        assert said[2].startswith(f"step 0: dev {measure} "), "whole grades from 1 on may be either"
    with pytest.raises(UsageError, match="no dev task 'reranking'; use auto, retrieval, similarity, labels"):
        Dev(task="reranking")


def test_settings_that_do_not_go_together_are_refused(path: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out", tmp_path / "rows.tsv"
    rows.write_text("anchor\tpositive\nwho purrs\ta cat purrs\n")
    for settings, message in (
        (
            {"judgments": "gold", "run": "first"},
            "--run and --judgments name two sets of rows; give one of them",
        ),
        ({"split": "train"}, "split is for --judgments: a run has its own; leave it out"),
        ({"judgments": "glod"}, "no judgments 'glod'; use gold, silver, both"),
        ({"negatives_per_row": 0}, "negatives_per_row must be a whole number from 1 to 62, got 0"),
    ):
        with pytest.raises(UsageError) as caught:
            TrainingRows(**settings)
        assert str(caught.value) == message
    assert refusal(rows, out, TrainingRows(run="first")) == (
        "--run is for a store, but rows.tsv is not one; leave it out, or name a store"
    )
    assert refusal(rows, out, TrainingRows(judgments="gold")) == (
        "--judgments is for a store, but rows.tsv is not one; leave it out, or name a store"
    )
    assert refusal(rows, out, TrainingRows(negatives_per_row=2)) == (
        "--negatives-per-row is for a store, but rows.tsv is not one; leave it out, or name a store"
    )
    assert refusal(rows, out, dev=Dev(split="dev"), config=SCORED) == (
        "dev_split 'dev' needs a store; name the store to score on with --dev"
    )
    assert refusal(rows, out, dev=Dev(task="similarity"), config=SCORED) == (
        "dev_task has no effect without a dev split; "
        "name one with --dev or --set dev_split=SPLIT, or leave dev_task out"
    )
    for given in (Dev(split="dev"), Dev(path), Dev(task="labels")):
        assert refusal(path, out, dev=given) == (
            "a dev split has no effect without evaluations; leave evaluations=0 out"
        )
    assert refusal(path, out, TrainingRows(columns=Columns(most=5.0))) == (
        "label_max has no effect on loss mnr; it is for cosine"
    )
    numbers = EncoderConfig(loss="cosine", base="scratch", evaluations=0)
    assert refusal(path, out, TrainingRows(columns=Columns(most=5.0)), config=numbers) == (
        "label_max is for files and --judgments; leave it out: a run has no labels"
    )
    assert refusal(path, out, TrainingRows(columns=Columns(texts=("a", "b")))) == (
        "--columns and --label-column are for a file; leave them out: a store has its own"
    )


@pytest.mark.parametrize("loss", ["triplet", "margin-mse"])
def test_losses_that_need_negatives_refuse_judgments(path: Path, tmp_path: Path, loss: str) -> None:
    message = refusal(
        path,
        tmp_path / "out",
        TrainingRows(judgments="both"),
        config=EncoderConfig(loss=loss, base="scratch"),
    )
    assert message == (
        f"loss {loss} needs negatives, but both judgments have none; "
        "mine some: miner mine my.duckdb; then train on the run"
    )


def test_a_store_without_runs_or_silver_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    make_store(path, DOCUMENTS, QUERIES, GOLD).close()
    assert (
        refusal(path, tmp_path / "out") == "my.duckdb holds no finished run; mine first: miner mine my.duckdb"
    )
    assert refusal(path, tmp_path / "out", TrainingRows(judgments="silver")) == (
        "split 'train' has no judgments of source silver; make silver ones: miner silver my.duckdb"
    )
    with pytest.raises(StoreError, match="no store at"):
        train(
            path, tmp_path / "out", SCORED, TrainingRows(judgments="gold"), dev=Dev(tmp_path / "none.duckdb")
        )
