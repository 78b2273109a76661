"""Training again, and what is not trained: the same is kept, other work left alone, misfits refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from miner.engine.files import locked
from miner.engine.progress import SILENT
from miner.errors import MinerError, ModelError, UsageError
from miner.evaluation.result import Evaluation
from miner.models.scratch import scratch_model
from miner.store.database import Database
from miner.training import steps
from miner.training.encoder import train_encoder
from miner.training.encoder_config import GUIDED, EncoderConfig
from miner.training.encoder_trainer import DevTask, train_model
from miner.training.examples import Examples
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig
from miner.training.steps import step_count
from miner.training.tsdae import pretrain
from tests.stores import make_store
from tests.train_support import (
    ANSWERS,
    CONFIG,
    PAIRED,
    TOPICS,
    Notes,
    dev,
    falling,
    frozen,
    goodness,
    of,
    tiny,
    triplets,
    weights,
)

__all__ = ["dev", "frozen", "tiny"]


def poison(at: int) -> DevTask:
    """A measure that spoils the weights at the given score, the base's being the first."""
    seen: list[SentenceTransformer] = []

    def score(model: SentenceTransformer) -> Evaluation:
        seen.append(model)
        if len(seen) == at:
            next(model.parameters()).data.fill_(nan)
        return goodness(0.5)

    return DevTask("goodness", "poison", "poison", score)


LOSS, WEIGHTS = "the loss is nan by step {} of 24", "after step {} not all weights are finite"
DIVERGING: dict[str, tuple[EncoderConfig, int | None, str]] = {
    "loss": (replace(CONFIG, learning_rate=1e38), None, LOSS.format(4)),
    "late": (replace(CONFIG, evaluations=6), 4, LOSS.format(14)),
    "last step": (replace(CONFIG, learning_rate=1e38, warmup=0, max_steps=1), None, WEIGHTS.format(1)),
    "too large to have a length": (
        replace(CONFIG, learning_rate=1e30, warmup=0, max_steps=2),
        None,
        WEIGHTS.format(2),
    ),
    "never logged": (replace(CONFIG, max_steps=21, evaluations=21), 22, WEIGHTS.format(21)),
}


@pytest.mark.parametrize("kind", DIVERGING)
def test_a_training_that_diverges_is_an_error_and_leaves_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CHECKPOINT_SECONDS", 0.0)
    config, at, reported = DIVERGING[kind]
    with pytest.raises(MinerError) as caught:
        train_encoder(triplets(), tmp_path / "out", config, dev=poison(at) if at else None)
    rate = f"lower learning_rate, it was {config.learning_rate:g}"
    assert (caught.value.message, caught.value.hint) == (f"training diverged: {reported}", rate)
    assert not list(tmp_path.iterdir()), "nothing is published, and no checkpoint is in the way of another"


def test_a_diverged_model_can_be_scored_and_bf16_is_a_suspect(dev: DevTask, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e38, dtype="bf16")
    with pytest.raises(MinerError, match=r"training diverged: .* it was 1e\+38; or train with dtype fp32"):
        train_encoder(triplets(), tmp_path / "out", config, dev=dev)
    assert not list(tmp_path.iterdir())


def test_the_same_again_is_not_trained_again(tmp_path: Path) -> None:
    out, short = tmp_path / "out", replace(CONFIG, max_steps=3)
    first = train_encoder(triplets(), out, short)
    before = (out / "model.safetensors").stat().st_mtime_ns
    notes = Notes()
    again = train_encoder(triplets(), out, replace(short, threads=2), progress=notes)
    assert (first.reused, again.reused) == (False, True)
    assert notes.said == [f"{out} holds this encoder already"]
    assert again.metrics.json() == first.metrics.json()
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_other_rows_settings_or_dev_split_are_another_training(dev: DevTask, tmp_path: Path) -> None:
    out, short = tmp_path / "out", replace(CONFIG, max_steps=2)
    first = train_encoder(triplets(), out, short)
    data = "other data, another base or other versions"
    for examples, config, task, reported in (
        (triplets(7), short, None, data),
        (triplets(), replace(short, seed=99), None, "seed 13, now 99"),
        (triplets(), replace(short, scale=10.0), None, "scale 20.0, now 10.0"),
        (triplets(), short, dev, data),
    ):
        with pytest.raises(UsageError) as caught:
            train_encoder(examples, out, config, dev=task)
        assert str(caught.value) == (
            f"{out} holds an encoder from another training: {reported}; "
            "name another folder, or replace it with --force"
        )
    other = train_encoder(triplets(), out, replace(short, seed=99), force=True)
    assert not other.reused
    assert other.metrics.fingerprint != first.metrics.fingerprint
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_another_base_of_the_same_name_is_another_training(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    config = of(base, max_steps=2)
    scratch_model("bundled", 8, 1).save_pretrained(str(base))
    train_encoder(triplets(), out, config)
    scratch_model("bundled", 8, 2).save_pretrained(str(base))
    with pytest.raises(UsageError, match="from another training: other data, another base or other versions"):
        train_encoder(triplets(), out, config)
    scratch_model("bundled", 8, 1).save_pretrained(str(tmp_path / "copy"))
    assert train_encoder(triplets(), out, replace(config, base=str(tmp_path / "copy"))).reused


@pytest.fixture(scope="module")
def others(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that other commands trained, or nobody did."""
    folder = tmp_path_factory.mktemp("others")
    documents = {f"d{row}": f"{answer} is here" for row, answer in enumerate(ANSWERS)}
    queries = {f"q{row}": f"where is {topic}" for row, topic in enumerate(TOPICS)}
    judgments = [(f"q{row}", f"d{row}") for row in range(len(TOPICS))]
    make_store(folder / "s.duckdb", documents, queries, judgments).close()
    settings: dict[str, Any] = {"base": str(tiny), "max_steps": 1, "threads": 1, "dtype": "fp32"}
    pretrain(folder / "s.duckdb", folder / "pretrained", PretrainConfig(**settings))
    with Database.open(folder / "s.duckdb") as store:
        reranker = RerankerConfig(**settings, held_out=0.2, skip_top=0, depth=5)
        train_reranker(store, folder / "reranker", reranker)
    (folder / "thesis").mkdir()
    (folder / "thesis" / "thesis.txt").write_text("precious")
    (folder / "file").write_text("precious")
    return {name: folder / name for name in ("pretrained", "reranker", "thesis", "file")}


def test_what_this_did_not_train_is_left_alone_even_with_force(others: dict[str, Path]) -> None:
    for out in others.values():
        before = sorted((path, path.stat().st_mtime_ns) for path in [out, *out.rglob("*")])
        with pytest.raises(UsageError) as caught:
            train_encoder(triplets(), out, replace(CONFIG, max_steps=1), force=True)
        assert str(caught.value) == (
            f"{out} exists and is not an encoder that miner trained; name a folder that does not exist yet"
        )
        assert sorted((path, path.stat().st_mtime_ns) for path in [out, *out.rglob("*")]) == before


def test_a_pretrained_encoder_is_a_base(others: dict[str, Path], tmp_path: Path) -> None:
    config = of(others["pretrained"], learning_rate=5e-3)
    metrics = train_encoder(triplets(), tmp_path / "out", config).metrics
    assert metrics.losses[-1][1] < metrics.losses[0][1]


def test_something_in_the_workplace_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError) as caught:
        train_encoder(triplets(), tmp_path / "new", CONFIG)
    assert str(caught.value) == f"{tmp_path}/new.partial is in the way; move it, or name another OUT"
    assert (tmp_path / "new.partial" / "thesis.txt").read_text() == "precious"


def test_two_trainings_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    out, config = tmp_path / "new", replace(CONFIG, max_steps=2)
    for force in (False, True):
        with locked(out), pytest.raises(MinerError) as caught:
            train_encoder(triplets(), out, config, force=force)
        assert str(caught.value) == (
            f"another process is writing {out}; wait until it ends, or name another target"
        )
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_of_a_finished_training_is_no_trap(tmp_path: Path) -> None:
    """The model has its place, and what is beside it still says that it was trained."""
    out, work, config = tmp_path / "out", tmp_path / "out.partial", replace(CONFIG, max_steps=2)
    report = train_encoder(triplets(), out, config)
    before = weights(out)

    def leave() -> None:
        work.mkdir()
        (work / "state.json").write_text(json.dumps({"fingerprint": report.metrics.fingerprint}))
        (work / "training.json").write_text("{}")

    leave()
    assert train_encoder(triplets(), out, config).reused
    assert not work.exists()
    leave()
    shutil.rmtree(out)
    assert not train_encoder(triplets(), out, config).reused
    assert weights(out) == before


def test_a_training_that_patience_ended_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from a checkpoint that was due at that step, nor from the one before."""
    monkeypatch.setattr(steps, "CHECKPOINT_SECONDS", 0.0)
    config, work = replace(CONFIG, evaluations=6, patience=2), tmp_path / "work"
    work.mkdir()
    first, again = (
        train_model(triplets(), None, work, config, falling(), SILENT) for _ in ("", "after a kill")
    )
    for training in (first, again):
        assert (training.steps, training.best_step) == (12, 4)
        assert [step for step, _ in training.scores] == [0, 4, 8, 12]


def test_models_and_losses_that_do_not_fit_say_so(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table = train_encoder(triplets(), tmp_path / "table", replace(CONFIG, max_steps=1)).out
    for loss, base, guide, reported in (
        ("cached-mnr", "scratch", None, "base, scratch is"),
        ("cached-mnr", str(table), None, f"base, {table} is"),
        ("gist", str(table), str(tiny), f"base, {table} is"),
        ("gist", str(tiny), str(table), f"guide, {table} is"),
    ):
        with pytest.raises(UsageError) as caught:
            train_encoder(triplets(), out, replace(of(tiny), loss=loss, base=base, guide=guide))
        assert (
            caught.value.message == f"loss {loss} needs a transformer as {reported} a table of token vectors"
        )
    with pytest.raises(ModelError) as missing:
        train_encoder(triplets(), out, of("./nowhere"))
    assert str(missing.value) == "no model folder at ./nowhere; name a folder, a hub id, or bundled"
    with pytest.raises(ModelError, match=r"no model folder at \./nobody; "):
        train_encoder(triplets(), out, of(tiny, loss="gist", guide="./nobody"))
    tokenizer = tmp_path / "bare"
    tokenizer.mkdir()
    (tokenizer / "model.safetensors").write_bytes(weights(tiny))
    with pytest.raises(ModelError) as bare:
        train_encoder(triplets(), out, replace(CONFIG, tokenizer=str(tokenizer)))
    assert str(bare.value) == (
        f"{tokenizer} has no tokenizer.json; name a model with a fast tokenizer, such as bundled"
    )
    with pytest.raises(ModelError) as broken:
        train_encoder(triplets(), out, of(tokenizer))
    assert str(broken.value).startswith(f"{tokenizer} does not load as a base for an encoder: ")
    assert str(broken.value).endswith("; name a bi-encoder, such as bundled, or scratch")
    assert not out.exists()


def test_steps_end_with_the_epochs_or_before() -> None:
    assert step_count(33, replace(CONFIG, epochs=2)) == 6
    assert step_count(33, replace(CONFIG, epochs=1.5)) == 5
    assert step_count(33, replace(CONFIG, epochs=2, max_steps=4)) == 4
    assert step_count(3, replace(CONFIG, epochs=0.1)) == 1


def test_more_steps_than_the_epochs_have_are_reported(tmp_path: Path) -> None:
    for requested, epochs, reported in (
        (7, 1.0, ["max_steps=7 is more than the 6 steps of 1 epoch: raise epochs"]),
        (500, 0.1, ["max_steps=500 is more than the 1 step of 0.1 epochs: raise epochs"]),
        (6, 1.0, []),
    ):
        notes, config = Notes(), replace(CONFIG, max_steps=requested, epochs=epochs)
        train_encoder(triplets(), tmp_path / f"{requested}", config, progress=notes)
        assert [note for note in notes.said if "max_steps" in note] == reported


def test_a_ranking_loss_with_nothing_to_rank_is_refused(tiny: Path, tmp_path: Path) -> None:
    out, single = tmp_path / "out", replace(CONFIG, batch_size=1)
    two = Examples({"anchor": ["one", "two"], "positive": ["a", "b"]})
    cases = {
        "1 row per batch": (two, 1),
        "no two of the 1 rows differ in anchor and positive": (two.take([0]), 2),
        "no two of the 3 rows differ in anchor and positive": (
            Examples({"anchor": ["one"] * 3, "positive": ["a", "b", "c"]}),
            2,
        ),
    }
    for loss in ("mnr", *PAIRED):
        base = of(tiny, loss=loss, guide=str(tiny) if loss in GUIDED else None)
        for reported, (rows, size) in cases.items():
            with pytest.raises(UsageError) as caught:
                train_encoder(rows, out, replace(base, batch_size=size))
            assert caught.value.message == f"loss {loss} has nothing to rank: no negatives, and {reported}"
    assert not list(tmp_path.iterdir())
    train_encoder(two, tmp_path / "pairs", replace(CONFIG, batch_size=2))
    for rows in (triplets(1), triplets(1).take([0])):
        losses = train_encoder(rows, out, replace(single, max_steps=1, mask=False), force=True).metrics.losses
        assert losses[0][1] > 0, "its own negative"
    labelled = replace(two, target=[1.0, 0.0])
    train_encoder(labelled, tmp_path / "labelled", replace(single, loss="cosine"))


@pytest.mark.parametrize("margin", [0.0, -0.1, 2.1, inf, nan])
def test_a_margin_is_a_distance_that_cosines_can_have(margin: float) -> None:
    with pytest.raises(UsageError) as caught:
        EncoderConfig(loss="triplet", margin=margin)
    assert str(caught.value) == f"margin must be a number above 0 and at most 2, got {margin}"
    assert EncoderConfig(loss="triplet", margin=2.0).margin == 2


def test_a_kill_between_the_best_model_and_the_notes_of_it_costs_nothing(tmp_path: Path) -> None:
    task = DevTask("goodness", "nothing", "zero", lambda model: goodness(0.0))
    found = [
        train_model(triplets(), None, tmp_path, replace(CONFIG, max_steps=3), task, SILENT) for _ in "ab"
    ]
    assert [(training.best_step, training.steps) for training in found] == [(0, 3), (0, 3)]
    assert weights(tmp_path / "trained") == weights(tmp_path / "best")
