"""The losses of `miner train-reranker`: their rows, their formulas in plain Python, teachers, refusals."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

from miner.collection.collection import Collection
from miner.engine.progress import SILENT, Silent
from miner.errors import UsageError
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.models.names import resolve
from miner.models.reranker import Reranker
from miner.store.database import Database
from miner.store.rerank_scores import keep_scores, known_scores_of
from miner.training import reranker_teacher
from miner.training.reranker import train_reranker
from miner.training.reranker_config import LISTWISE, RERANKER_LOSSES, RerankerConfig
from miner.training.reranker_pairs import LabelledPairs, labelled_pairs, read_judgments
from tests import forking
from tests.stores import make_store
from tests.test_training_reranker import Notes, weights
from tests.tiny import tiny_bert

WORDS = ["amber", "basalt", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jasper"]


def fill(path: Path, queries: int = 8, positives: int = 2) -> Database:
    """Returns a store of graded positives, which say "indeed", and of other documents."""
    documents, texts, judgments = {}, {}, []
    for number in range(queries):
        word = WORDS[number % len(WORDS)]
        texts[f"q{number:02}"] = f"what is {word} number {number}"
        for answer in range(positives):
            documents[f"right-{number:02}-{answer}"] = f"indeed {word} {number} part {answer}"
            judgments.append((f"q{number:02}", f"right-{number:02}-{answer}"))
        for other in range(8):
            documents[f"wrong-{number:02}-{other}"] = f"perhaps {word} {WORDS[other]} {number} {other}"
    store = make_store(path, documents, texts, judgments)
    store.execute("UPDATE judgments SET relevance = 3 WHERE doc_id LIKE '%-0'")
    return store


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bert(folder / "base", initializer_range=0.05)
    tiny_bert(folder / "teacher", labels=1, seed=7)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with fill(tmp_path / "store.duckdb") as opened:
        yield opened


def config_of(models: Path, loss: str, **settings: Any) -> RerankerConfig:
    teacher = {"teacher": str(models / "teacher")} if loss == "margin-mse" else {}
    return RerankerConfig(
        base=str(models / "base"), loss=loss, skip_top=0, depth=20, dtype="fp32", **{**teacher, **settings}
    )


def pairs_of(store: Database, config: RerankerConfig) -> LabelledPairs:
    collection = Collection.load(store, config.split)
    return labelled_pairs(read_judgments(store, config), collection, config)


def scored(pairs: LabelledPairs, low: float = 0.0, high: float = 1.0) -> LabelledPairs:
    """Returns pairs with scores of a teacher, which prefers positives."""
    rng = np.random.default_rng(3)
    return replace(pairs, given=low + (high - low) * (0.5 * pairs.positive + 0.5 * rng.random(len(pairs))))


@pytest.mark.parametrize("loss", LISTWISE)
def test_a_list_has_all_positives_of_a_query_with_their_grades(
    store: Database, models: Path, loss: str
) -> None:
    from miner.training.reranker_losses import reranker_rows

    config = config_of(models, loss)
    pairs = pairs_of(store, config)
    made = reranker_rows(pairs, config)
    assert made.rows.column_names == ["query", "document", "label"]
    assert len(made.rows) == 8
    for row in made.rows:
        graded = dict(zip(row["document"], row["label"], strict=True))
        assert sorted(graded.values(), reverse=True)[:2] == [3.0, 1.0]
        _, _, word, _, number = row["query"].split()
        own = {text for text in graded if text.startswith(f"indeed {word} {number} part")}
        assert own == {text for text, label in graded.items() if label > 0}
        assert len(graded) == 2 + 2 * (4 + 2)
    assert made.per_batch == round(32 / 14)


def test_a_long_list_is_dealt_out_so_that_every_list_has_both(tmp_path: Path, models: Path) -> None:
    from miner.training.reranker_losses import reranker_rows

    config = config_of(models, "adrmse", list_size=10, mined=3, random=1)
    with fill(tmp_path / "s.duckdb", queries=3, positives=6) as store:
        pairs = pairs_of(store, config)
        rows = list(reranker_rows(pairs, config).rows)
        one = reranker_rows(pairs, replace(config, list_size=1000))
    texts = [(row["query"], text) for row in rows for text in row["document"]]
    assert len(texts) == len(set(texts)) == len(pairs), "every pair is in one list"
    assert len(one.rows) == 3
    assert len(rows) > 3
    for row in rows:
        assert len(row["document"]) <= 10
        assert max(row["label"]) > 0
        assert min(row["label"]) == 0


def test_rows_of_margins_use_every_negative_once_and_positives_in_turn(store: Database, models: Path) -> None:
    from miner.training.reranker_losses import reranker_rows

    config = config_of(models, "margin-mse")
    pairs = scored(pairs_of(store, config))
    made = reranker_rows(pairs, config)
    assert made.per_batch == 16
    rows = list(made.rows)
    label = dict(zip(zip(*pairs.texts(), strict=True), pairs.labels, strict=True))
    negatives = [(row["query"], row["negative"]) for row in rows]
    assert len(negatives) == len(set(negatives)) == int((~pairs.positive).sum())
    for row in rows:
        assert row["label"] == [label[row["query"], row["positive"]], label[row["query"], row["negative"]]]
        assert row["positive"].startswith("indeed")
    for query in {row["query"] for row in rows}:
        turns = [row["positive"] for row in rows if row["query"] == query]
        assert sorted(turns.count(text) for text in set(turns)) == [6, 6]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(scores: Sequence[float], labels: Sequence[float]) -> float:
    parts = [-math.log(sigmoid(s if y else -s)) for s, y in zip(scores, labels, strict=True)]
    return sum(parts) / len(parts)


def lambda_loss(
    scores: Sequence[float], labels: Sequence[float], ranked: Sequence[float] | None = None, mu: float = 10.0
) -> float:
    """NDCG-Loss2++ of one list: Wang et al. 2018, equations 15 to 17, in base 2.

    `ranked` are the scores that the ranks are of: the gradient treats ranks as constant.
    """
    order = sorted(range(len(scores)), key=lambda i: -(ranked or scores)[i])
    s, y = [scores[i] for i in order], [labels[i] for i in order]
    discount = [math.log2(rank + 2) for rank in range(len(s))]
    ideal = sum((2**g - 1) / d for g, d in zip(sorted(y, reverse=True), discount, strict=True))
    gain = [(2**g - 1) / ideal for g in y]
    parts = []
    for i in range(len(s)):
        for j in range(len(s)):
            if y[i] <= y[j]:
                continue
            apart = abs(i - j)
            step = abs(1 / discount[apart - 1] - 1 / discount[apart])
            rank = abs(1 / discount[i] - 1 / discount[j])
            weight = (mu * step + rank) * abs(gain[i] - gain[j])
            parts.append(-weight * math.log2(sigmoid(s[i] - s[j])))
    return sum(parts) / len(parts)


def adr_mse(scores: Sequence[float], labels: Sequence[float]) -> float:
    """The discounted squared error of smooth ranks; equal labels share the mean of their ranks."""
    total = 0.0
    for i, own in enumerate(labels):
        above, equal = sum(y > own for y in labels), sum(y == own for y in labels)
        true = above + (equal + 1) / 2
        found = 1 + sum(sigmoid(s - scores[i]) for j, s in enumerate(scores) if j != i)
        total += (true - found) ** 2 / math.log2(true + 1)
    return total / len(labels)


def margin_mse(scores: Sequence[float], labels: Sequence[float]) -> float:
    """Of one positive and one negative; the scores are compared as probabilities, as the labels are."""
    found = sigmoid(scores[0]) - sigmoid(scores[1])
    return (found - (labels[0] - labels[1])) ** 2


FORMULAS: dict[str, Callable[..., float]] = {
    "bce": bce, "lambda": lambda_loss, "adrmse": adr_mse, "margin-mse": margin_mse,
}  # fmt: skip


@pytest.mark.parametrize("loss", RERANKER_LOSSES)
def test_loss_and_gradient_are_those_of_the_formula(store: Database, models: Path, loss: str) -> None:
    from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator

    from miner.training.reranker_losses import reranker_loss, reranker_rows
    from miner.training.reranker_trainer import load_base

    config = config_of(models, loss)
    pairs = pairs_of(store, config)
    pairs = scored(pairs) if loss == "margin-mse" else pairs
    rows = list(reranker_rows(pairs, config).rows)[: 4 if loss == "bce" else 1]
    model = load_base(resolve(config.base), config).eval()
    seen: list[Any] = []

    def keep(_: Any, __: Any, output: dict[str, Any]) -> None:
        output["scores"].retain_grad()
        seen.append(output["scores"])

    model.register_forward_hook(keep)
    batch: dict[str, Any] = CrossEncoderDataCollator(lambda texts: {})(rows)
    labels = batch.pop("label")
    value = reranker_loss(model, config, pairs)(list(batch.values()), labels)
    value.backward()
    scores = [float(one) for tensor in seen for one in tensor.detach().flatten()]
    gradient = [float(one) for tensor in seen for one in tensor.grad.flatten()]
    given = [row["label"] for row in rows] if loss == "bce" else rows[0]["label"]
    formula = partial(lambda_loss, ranked=scores) if loss == "lambda" else FORMULAS[loss]
    assert float(value.detach()) == pytest.approx(formula(scores, given), rel=1e-4)
    step = 1e-5
    for i in range(len(scores)):
        up, down = ([s + sign * step * (j == i) for j, s in enumerate(scores)] for sign in (1, -1))
        numeric = (formula(up, given) - formula(down, given)) / (2 * step)
        assert gradient[i] == pytest.approx(numeric, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("loss", RERANKER_LOSSES)
def test_the_loss_falls(store: Database, models: Path, tmp_path: Path, loss: str) -> None:
    from miner.training.reranker_trainer import train_cross_encoder

    config = config_of(models, loss, max_steps=20, epochs=20, learning_rate=5e-3)
    pairs = pairs_of(store, config)
    pairs = scored(pairs) if loss == "margin-mse" else pairs
    work = tmp_path / "work"
    work.mkdir()
    training = train_cross_encoder(pairs, resolve(config.base), work, config, SILENT)
    assert training.steps == 20
    assert training.losses[-1] < 0.8 * training.losses[0]


def test_a_teachers_scores_are_the_labels_and_stored_ones_are_not_computed_again(
    store: Database, models: Path, tmp_path: Path
) -> None:
    from miner.training.reranker_teacher import RerankerTeacher

    mine(store, MiningConfig(depth=10, rerank_depth=10, reranker=str(models / "teacher"), dtype="fp32"))
    config = config_of(models, "margin-mse", max_steps=1, held_out=0.25)
    notes = Notes()
    teacher = RerankerTeacher.of(config, notes)
    assert teacher is not None
    pairs = teacher.stored(store, pairs_of(store, config))
    chosen = pairs.query > 0
    taught = teacher.label(pairs, chosen, tmp_path, config, notes)
    expected = Reranker(str(models / "teacher"), dtype="fp32").score(*pairs.texts())
    np.testing.assert_allclose(taught.labels[chosen], expected[chosen], atol=1e-5)
    assert not taught.labels[~chosen].any()
    (said,) = [note for note in notes.said if note.startswith("teacher")]
    stored, computed = (int(word.replace(",", "")) for word in said.split() if word[0].isdigit())
    assert stored + computed == chosen.sum()
    assert stored == np.isfinite(pairs.labels[chosen]).sum()
    assert stored > int(pairs.positive[chosen].sum()), "positives and candidates of the run"
    again = teacher.label(pairs, chosen, tmp_path, config, notes)
    np.testing.assert_array_equal(again.labels, taught.labels)
    assert len([note for note in notes.said if note.startswith("teacher")]) == 1, "read from the workspace"


def scoring(store: str, out: str, models: str, fatal: int) -> None:
    """Trains on the scores of a teacher, which are written often, and is killed after so many."""
    reranker_teacher.CHUNK = 16
    config = config_of(Path(models), "margin-mse", max_steps=1, held_out=0.0, threads=1)
    with Database.open(Path(store)) as opened:
        train_reranker(opened, Path(out), config, forking.Deadly("scores of the teacher", fatal))


@pytest.mark.slow
def test_scores_of_a_teacher_that_was_killed_are_not_computed_again(tmp_path: Path, models: Path) -> None:
    fill(tmp_path / "store.duckdb").close()
    undisturbed = forking.run(scoring, tmp_path / "store.duckdb", tmp_path / "whole", models, 0)
    assert undisturbed.code == 0, undisturbed.err
    killed, started = tmp_path / "killed", []
    for fatal in (32, 48, 0):
        ended = forking.run(scoring, tmp_path / "store.duckdb", killed, models, fatal)
        assert ended.code == (-signal.SIGKILL if fatal else 0), ended.err
        started += ended.out.splitlines()
    assert started == [f"scores of the teacher {done}" for done in (0, 32, 80)]
    assert weights(killed) == weights(tmp_path / "whole")
    assert not (tmp_path / "killed.partial").exists()


def test_a_teacher_whose_scores_the_loss_cannot_use_scores_no_more_than_a_chunk(
    store: Database, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import CrossEncoder

    logits = CrossEncoder(str(models / "teacher"), activation_fn=torch.nn.Identity(), device="cpu")
    logits.save_pretrained(str(tmp_path / "logits"))
    monkeypatch.setattr(reranker_teacher, "CHUNK", 16)
    notes = Counted()
    config = config_of(models, "lambda", teacher=str(tmp_path / "logits"), max_steps=1, held_out=0.0)
    with pytest.raises(UsageError, match=r"the scores of .* go from -"):
        train_reranker(store, tmp_path / "out", config, notes)
    assert notes.units["scores of the teacher"] == 0
    assert not (tmp_path / "out.partial").exists()


class Counted(Silent):
    """Counts the units of tasks by their names."""

    def __init__(self) -> None:
        self.units: dict[str, int] = {}

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Callable[[int], None]]:
        self.units.setdefault(name, 0)

        def advance(units: int) -> None:
            self.units[name] += units

        yield advance


def test_stored_scores_are_read_for_the_pairs_alone(store: Database) -> None:
    def kept(reranker: str, *rows: tuple[str, str, float]) -> None:
        columns = zip(*rows, strict=True)
        keep_scores(store, reranker, pa.table(list(columns), names=["query_id", "doc_id", "score"]))

    kept("one", ("q00", "a", 1.0), ("q00", "b", 2.0), ("q01", "a", 3.0), ("q00", "b", 2.0))
    kept("other", ("q01", "b", 9.0))
    wanted = pa.table({"query_id": ["q01", "q01", "q00", "q01"], "doc_id": ["b", "a", "b", "a"]})
    found = known_scores_of(store, "one", wanted)
    np.testing.assert_array_equal(found, [np.nan, 3.0, 2.0, 3.0])
    assert known_scores_of(store, "one", wanted.slice(0, 0)).tolist() == []


def test_the_command_says_the_loss_and_the_card_says_the_teacher(
    store: Database, models: Path, tmp_path: Path
) -> None:
    from miner.cli.train_reranker import command

    path, out = store.path, tmp_path / "out"
    store.close()
    arguments = [str(path), str(out), "--base", str(models / "base"), "--loss", "margin-mse"]
    settings = {"teacher": models / "teacher", "max_steps": 1, "skip_top": 0, "depth": 20, "held_out": 0.25}
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(command, [*arguments, *sets], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "1 step, loss margin-mse" in result.output
    card = (out / "README.md").read_text("utf-8")
    assert "Loss `margin-mse`: MarginMSE: the difference" in card
    assert f"The labels of all pairs are the scores of the reranker `{models / 'teacher'}`." in card


def test_what_a_loss_cannot_use_is_refused(store: Database, models: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="learns the scores of a teacher, and none is named; name a reranker"
    ):
        RerankerConfig(loss="margin-mse")
    with pytest.raises(
        UsageError, match="teacher has no effect on loss bce; it is for lambda, adrmse, margin"
    ):
        RerankerConfig(teacher="a-model")
    with pytest.raises(
        UsageError, match="list_size has no effect on loss margin-mse; it is for lambda, adrmse"
    ):
        RerankerConfig(loss="margin-mse", teacher="a-model", list_size=5)
    with pytest.raises(UsageError, match="loss must be one of bce, lambda, adrmse, margin-mse, got 'lamda'"):
        RerankerConfig(loss="lamda")
    from miner.training.reranker_losses import reranker_rows

    config = config_of(models, "lambda", teacher="a-model")
    pairs = pairs_of(store, config)
    with pytest.raises(
        UsageError, match=r"scores of a-model go from -.* to .*; use --loss adrmse, which only"
    ):
        reranker_rows(scored(pairs, -4.0, 4.0), config)
    with pytest.raises(UsageError, match="all labels are 0: loss lambda has nothing to learn"):
        reranker_rows(replace(pairs, given=np.zeros(len(pairs))), config)
    assert not (tmp_path / "out").exists()
    train = replace(config_of(models, "lambda"), max_steps=1)
    store.execute("UPDATE judgments SET relevance = 100 WHERE relevance = 3")
    with pytest.raises(UsageError, match="but the grades go from 0 to 100; use --loss adrmse"):
        train_reranker(store, tmp_path / "out", train)
