"""Training an encoder: every loss learns, the best model is kept, the same again is the same."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from miner.engine.progress import SILENT
from miner.errors import ModelError, UsageError
from miner.models.encoder import Encoder
from miner.models.scratch import scratch_model
from miner.training.encoder import known_positives, train_encoder
from miner.training.encoder_card import EncoderReport
from miner.training.encoder_config import LOSSES, EncoderConfig
from miner.training.encoder_trainer import DevTask, load_base, step_count, train_model
from miner.training.examples import Examples
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig
from miner.training.tsdae import pretrain
from miner.workflows.train import dev_task
from tests.evaluation_support import judged_store
from tests.stores import make_store
from tests.tiny import tiny_bert

PARTNERS = {
    "lentils": "river", "copper": "market", "glaciers": "window", "violins": "forest", "harbours": "engine",
    "moss": "carpet", "lanterns": "mountain", "ferries": "letter", "castles": "garden", "pepper": "silver",
    "clouds": "bridge", "anchors": "planet",
}  # fmt: skip
"""Which word of an answer belongs to which of a question: nothing but training can tell."""
FILL = ["old", "new", "small", "large", "north", "south", "first", "last"]
TOPICS, ANSWERS = list(PARTNERS), list(PARTNERS.values())

CONFIG = EncoderConfig(
    base="scratch",
    dimension=16,
    batch_size=16,
    epochs=4,
    learning_rate=0.1,
    evaluations=2,
    dtype="fp32",
    threads=1,
)
DEV = "split dev of s.duckdb, at most 500 queries and 5,000 documents"
PAIRED = ("gist", "cached-mnr")
"""Losses that need a transformer."""


def said(word: str, rng: random.Random) -> str:
    return f"{word} {rng.choice(FILL)} {rng.choice(FILL)}"


def triplets(rounds: int = 8) -> Examples:
    """Returns rows of a topic, the answer that belongs to it, and one that does not."""
    rng = random.Random(3)
    topics = [topic for _ in range(rounds) for topic in range(len(TOPICS))]
    others = [(topic + rng.randrange(1, len(TOPICS))) % len(TOPICS) for topic in topics]
    texts = {
        "anchor": [said(TOPICS[topic], rng) for topic in topics],
        "positive": [said(ANSWERS[topic], rng) for topic in topics],
        "negative": [said(ANSWERS[other], rng) for other in others],
    }
    return Examples(texts, origin="here/triplets.jsonl")


def pairs(target: list[Any], classes: tuple[str, ...] = ()) -> Examples:
    """Returns the pairs of topic with right answer, wrong answer and itself, with a target for each kind."""
    anchor, positive, negative = map(list, triplets().texts.values())
    kinds = [positive, negative, anchor][: len(target)]
    labels = [value for value in target for _ in anchor]
    texts = {"anchor": anchor * len(kinds), "document": [text for kind in kinds for text in kind]}
    return Examples(texts, labels, classes, "here/pairs.tsv")


def examples_for(loss: str) -> Examples:
    if loss == "cosine":
        return pairs([1.0, 0.0])
    if loss == "softmax":
        return pairs([2, 1, 0], ("copy", "other", "answer"))
    if loss == "margin-mse":
        return replace(triplets(), target=[[0.9, 0.1]] * len(triplets()))
    return triplets()


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """The trainer collects garbage after each training: what is loaded by now is none."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> DevTask:
    """Asks which of all answers belongs to each topic, in other words than in training."""
    rng = random.Random(4)
    queries = {f"q{row}": said(topic, rng) for row, topic in enumerate(TOPICS)}
    documents = {f"d{row}": said(answer, rng) for row, answer in enumerate(ANSWERS)}
    judgments = [(f"q{row}", f"d{row}", 1.0, "dev") for row in range(len(TOPICS))]
    with judged_store(tmp_path_factory.mktemp("dev") / "s.duckdb", documents, queries, judgments) as store:
        task = dev_task(store)
    assert task is not None
    return task


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.05)


@dataclass
class Notes:
    """Keeps what a training says."""

    said: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.said.append(message)

    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Any:

        return SILENT.task(name, total, done, unit)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def of(base: Path | str, **settings: Any) -> EncoderConfig:
    """Returns CONFIG for a model as the base, without what only scratch reads."""
    return replace(CONFIG, base=str(base), dimension=EncoderConfig.dimension, **settings)


def measures(report: EncoderReport) -> list[float]:
    return [found["nDCG@10"] for _, found in report.metrics.scores]


def settings_for(loss: str, tiny: Path, guide: Path) -> EncoderConfig:
    if loss == "gist":
        return of(tiny, loss=loss, learning_rate=5e-3, guide=str(guide))
    if loss == "cached-mnr":
        return of(tiny, loss=loss, learning_rate=5e-3, mini_batch=8)
    if loss == "softmax":  # nearness is only a side effect of telling classes apart
        return replace(CONFIG, loss=loss, dimension=64, learning_rate=0.3)
    return replace(CONFIG, loss=loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls_and_the_measure_rises(loss: str, dev: DevTask, tiny: Path, tmp_path: Path) -> None:
    guide = tiny_bert(tmp_path / "guide", seed=7)
    examples, config = examples_for(loss), settings_for(loss, tiny, guide)
    metrics = train_encoder(examples, tmp_path / "out", config, dev=dev).metrics
    assert metrics.losses[-1][1] < 0.7 * metrics.losses[0][1]
    assert metrics.losses[-1][0] == metrics.steps == step_count(len(examples), config)
    assert [step for step, _ in metrics.scores] == [0, metrics.steps // 2, metrics.steps]
    scores = dict(metrics.scores)
    assert metrics.best_step is not None
    assert scores[metrics.best_step]["nDCG@10"] == max(found["nDCG@10"] for found in scores.values())
    assert scores[metrics.best_step]["nDCG@10"] > scores[0]["nDCG@10"] + 0.02
    model = SentenceTransformer(str(tmp_path / "out"))
    assert dev.score(model)["nDCG@10"] == pytest.approx(scores[metrics.best_step]["nDCG@10"])
    assert {path.name for path in tmp_path.iterdir()} == {"guide", "out"}


FOLDER = {
    "README.md", "config_sentence_transformers.json", "curve.png", "curve.svg", "metrics.json",
    "model.safetensors", "modules.json", "tokenizer.json",
}  # fmt: skip


def test_it_leaves_a_model_with_its_card_and_figures(dev: DevTask, tmp_path: Path) -> None:
    out = tmp_path / "my-model"
    report = train_encoder(triplets(), out, CONFIG, dev=dev, about={"source": "here"})
    assert {path.name for path in out.rglob("*")} == FOLDER, "no pickle, no optimizer, no checkpoint"
    stored = json.loads((out / "metrics.json").read_text("utf-8"))
    assert (stored["what"], stored["rows"], stored["steps"]) == ("an encoder", 96, 24)
    assert (stored["origin"], stored["columns"]) == ("triplets.jsonl", ["anchor", "positive", "negative"])
    assert (stored["measure"], stored["best_step"]) == ("nDCG@10", report.metrics.best_step)
    assert stored["config"]["learning_rate"] == 0.1
    assert (stored["data"], stored["dev"]) == (triplets().fingerprint, DEV)
    assert (stored["about"], stored["left_out"]) == ({"source": "here"}, 0)
    assert {"torch", "sentence-transformers"} <= set(stored["versions"])
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "curve.svg").read_text("utf-8")
    vectors = Encoder(str(out), dtype="fp32").encode(["lentils", "river"])
    assert vectors.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_card_says_what_it_is(dev: DevTask, tmp_path: Path) -> None:
    report = train_encoder(triplets(), tmp_path / "my-model", CONFIG, dev=dev)
    card = (tmp_path / "my-model" / "README.md").read_text("utf-8")
    assert (
        "An encoder trained with miner from `scratch` on 96 rows (anchor, positive, negative) of "
        "`triplets.jsonl`, loss `mnr`: ranks the positive above all other documents of the batch.\n"
    ) in card
    assert f"On {DEV}; step 0 is the base. The model with the best nDCG@10 was kept.\n" in card
    assert f"| {report.metrics.best_step} (kept) | " in card
    assert "![training curve](curve.png)" in card
    assert "| learning_rate | 0.1 |\n" in card
    assert report.metrics.fingerprint[:16] in card
    assert str(tmp_path) not in card


def test_without_a_dev_split_the_last_model_is_kept(dev: DevTask, tmp_path: Path) -> None:
    alone = train_encoder(triplets(), tmp_path / "alone", CONFIG)
    assert (alone.metrics.measure, alone.metrics.scores, alone.metrics.best_step) == (None, [], None)
    card = (tmp_path / "alone" / "README.md").read_text("utf-8")
    assert "Nothing was scored on the way: see `miner evaluate`." in card
    scored = train_encoder(triplets(), tmp_path / "scored", CONFIG, dev=dev)
    assert scored.metrics.best_step == scored.metrics.steps
    assert weights(tmp_path / "alone") == weights(tmp_path / "scored"), "scoring changes nothing"
    never = train_encoder(triplets(), tmp_path / "never", replace(CONFIG, evaluations=0), dev=dev)
    assert (never.metrics.measure, never.metrics.best_step) == (None, None)
    assert weights(tmp_path / "never") == weights(tmp_path / "alone")


def test_a_seed_gives_the_same_weights_and_another_others(tmp_path: Path) -> None:
    short = replace(CONFIG, max_steps=4)
    for name, seed in (("one", 13), ("again", 13), ("other", 14)):
        train_encoder(triplets(), tmp_path / name, replace(short, seed=seed))
    assert weights(tmp_path / "one") == weights(tmp_path / "again")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")


def test_a_seed_gives_a_transformer_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    short = of(tiny, learning_rate=1e-3, max_steps=3)
    for name in ("one", "again"):
        train_encoder(triplets(), tmp_path / name, short)
    assert weights(tmp_path / "one") == weights(tmp_path / "again") != weights(tiny)


def falling(steps: int) -> DevTask:
    """A measure that is best at the first score after the base and falls from then on."""
    seen: list[SentenceTransformer] = []

    def score(model: SentenceTransformer) -> Mapping[str, float]:
        seen.append(model)
        return {"goodness": 0.5 if len(seen) == 1 else 1 - len(seen) / 100}

    return DevTask("goodness", "a fall", "falls", score)


def test_the_best_model_is_kept_not_the_last(tmp_path: Path) -> None:
    config = replace(CONFIG, evaluations=6)
    report = train_encoder(triplets(), tmp_path / "best", config, dev=falling(24))
    assert (report.metrics.best_step, report.metrics.steps) == (4, 24)
    assert [step for step, _ in report.metrics.scores] == [0, 4, 8, 12, 16, 20, 24]
    train_encoder(triplets(), tmp_path / "last", config)
    assert weights(tmp_path / "best") != weights(tmp_path / "last")


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    scores = iter([nan, 0.2, nan, 0.1])
    task = DevTask("goodness", "some", "gaps", lambda model: {"goodness": next(scores)})
    report = train_encoder(triplets(), tmp_path / "out", replace(CONFIG, evaluations=3), dev=task)
    assert report.metrics.best_step == report.metrics.scores[1][0]


def test_it_stops_when_it_gets_no_better(tmp_path: Path) -> None:
    notes = Notes()
    config = replace(CONFIG, evaluations=6, patience=2)
    report = train_encoder(triplets(), tmp_path / "out", config, dev=falling(24), progress=notes)
    assert (report.metrics.best_step, report.metrics.steps) == (4, 12)
    assert "no better score in 2 evaluations: stopped" in notes.said
    assert [note for note in notes.said if "dev" in note] == [
        "step 0: dev goodness 0.5000",
        "step 4: dev goodness 0.9800",
        "step 8: dev goodness 0.9700",
        "step 12: dev goodness 0.9600",
    ]


def test_a_base_that_was_better_all_along_is_kept(tmp_path: Path) -> None:
    task = DevTask("goodness", "nothing", "zero", lambda model: {"goodness": 0.0})
    report = train_encoder(triplets(), tmp_path / "out", replace(CONFIG, max_steps=4), dev=task)
    assert report.metrics.best_step == 0
    table = load_file(tmp_path / "out" / "model.safetensors")["embedding.weight"]
    base = scratch_model("bundled", 16, 13).state_dict()["0.embedding.weight"].numpy()
    np.testing.assert_array_equal(table, base)


def test_prompts_stay_with_the_model(tiny: Path, tmp_path: Path) -> None:
    prompts = {"query_prompt": "query: ", "document_prompt": "text: "}
    for name, config in (("transformer", of(tiny)), ("static", CONFIG)):
        out = tmp_path / name
        train_encoder(triplets(), out, replace(config, max_steps=2, **prompts))
        assert SentenceTransformer(str(out)).prompts == {"query": "query: ", "document": "text: "}
        assert Encoder(str(out)).prompts == {"query": "query: ", "document": "text: "}
        further = tmp_path / f"{name}-further"
        train_encoder(triplets(), further, of(out, max_steps=1, document_prompt=""))
        assert SentenceTransformer(str(further)).prompts == {"query": "query: ", "document": ""}


def test_a_prompt_is_trained_as_if_it_stood_in_the_text(tmp_path: Path) -> None:
    short = replace(CONFIG, max_steps=1)
    anchor, positive, negative = triplets().texts.values()
    written = {"anchor": [f"planet: {text}" for text in anchor], "positive": positive, "negative": negative}
    still = replace(short, learning_rate=1e-30, batch_size=96, mask=False)
    found = [
        train_encoder(Examples(texts), tmp_path / name, replace(still, query_prompt=prompt)).metrics.losses
        for name, texts, prompt in (
            ("prompt", triplets().texts, "planet: "),
            ("text", written, None),
            ("plain", triplets().texts, None),
        )
    ]
    assert found[0][0][1] == pytest.approx(found[1][0][1], rel=1e-3)
    assert found[0][0][1] != pytest.approx(found[2][0][1], rel=1e-2)


def test_no_text_is_read_further_than_asked(tiny: Path) -> None:
    assert load_base(of(tiny, max_length=16)).max_seq_length == 16
    assert load_base(of(tiny, max_length=256)).max_seq_length == 64, "its own"
    assert load_base(of("bundled", max_length=100)).max_seq_length == 100


def test_the_length_is_the_models_from_then_on(tiny: Path, tmp_path: Path) -> None:
    train_encoder(triplets(), tmp_path / "out", of(tiny, max_length=8, max_steps=1))
    model = SentenceTransformer(str(tmp_path / "out"))
    assert model.max_seq_length == 8
    same = model.encode(["a b c d e f g h i j", "a b c d e f z z z z"])
    np.testing.assert_array_equal(same[0], same[1])


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
    for examples, config, task, told in (
        (triplets(7), short, None, data),
        (triplets(), replace(short, seed=99), None, "seed 13, now 99"),
        (triplets(), replace(short, scale=10.0), None, "scale 20.0, now 10.0"),
        (triplets(), short, dev, data),
    ):
        with pytest.raises(UsageError) as caught:
            train_encoder(examples, out, config, dev=task)
        assert str(caught.value) == (
            f"{out} holds an encoder that was trained otherwise: {told}; "
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
    with pytest.raises(UsageError, match="trained otherwise: other data, another base or other versions"):
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
    with make_store(folder / "s.duckdb", documents, queries, judgments) as store:
        settings: dict[str, Any] = {"base": str(tiny), "max_steps": 1, "threads": 1, "dtype": "fp32"}
        pretrain(store, folder / "pretrained", PretrainConfig(**settings))
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


def test_rows_that_find_no_batch_are_counted(tmp_path: Path) -> None:
    rows = Examples({"anchor": ["one", "one", "one", "two"], "positive": ["a", "b", "c", "d"]})
    notes, short = Notes(), replace(CONFIG, batch_size=4, epochs=2)
    assert train_encoder(rows, tmp_path / "out", short, progress=notes).metrics.left_out == 2
    assert notes.said[0] == (
        "2 of 4 rows an epoch find no batch without duplicates of their texts: "
        "smaller batches would take more"
    )
    assert json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))["left_out"] == 2
    notes = Notes()
    labelled = replace(rows, target=[1.0, 0.0, 0.5, 0.0])
    train_encoder(labelled, tmp_path / "b", replace(short, loss="cosine"), progress=notes)
    assert not [note for note in notes.said if "duplicates" in note]


def test_masking_known_positives_changes_what_is_learnt(tmp_path: Path) -> None:
    """All answers of a topic belong to all its questions: unmasked, they push one another away."""
    short = replace(CONFIG, max_steps=6)
    masked = train_encoder(triplets(), tmp_path / "masked", short, known=_same_topic())
    plain = train_encoder(triplets(), tmp_path / "plain", replace(short, mask=False), known=_same_topic())
    assert masked.metrics.losses[0][1] < plain.metrics.losses[0][1]
    assert weights(tmp_path / "masked") != weights(tmp_path / "plain")


def _same_topic() -> Any:
    anchor, positive, _ = triplets().texts.values()
    topics = range(len(TOPICS))
    anchors = [text for topic in topics for text in anchor[topic :: len(TOPICS)] for _ in range(8)]
    answers = [text for topic in topics for _ in range(8) for text in positive[topic :: len(TOPICS)]]
    return known_positives(Examples({"anchor": anchors, "positive": answers}))


@pytest.mark.slow
def test_a_few_steps_of_the_bundled_encoder_lower_the_loss(dev: DevTask, tmp_path: Path) -> None:
    config = EncoderConfig(
        max_steps=3, batch_size=12, learning_rate=3e-4, warmup=0.0, evaluations=1, dtype="fp32", threads=1
    )
    metrics = train_encoder(triplets(), tmp_path / "out", config, dev=dev).metrics
    assert [step for step, _ in metrics.losses] == [1, 2, 3]
    assert metrics.losses[-1][1] < metrics.losses[0][1]
    before, after = (found["nDCG@10"] for _, found in metrics.scores)
    assert after > before
    assert SentenceTransformer(str(tmp_path / "out")).max_seq_length == 256


def test_models_and_losses_that_do_not_fit_say_so(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for loss in PAIRED:
        config = replace(CONFIG, loss=loss, guide=str(tiny) if loss == "gist" else None)
        with pytest.raises(UsageError) as caught:
            train_encoder(triplets(), out, config)
        assert str(caught.value).startswith(f"loss {loss} does not work with scratch: ")
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


def test_a_kill_between_the_best_model_and_the_notes_of_it_costs_nothing(tmp_path: Path) -> None:
    task = DevTask("goodness", "nothing", "zero", lambda model: {"goodness": 0.0})
    found = [
        train_model(triplets(), None, tmp_path, replace(CONFIG, max_steps=3), task, SILENT) for _ in "ab"
    ]
    assert [(training.best_step, training.steps) for training in found] == [(0, 3), (0, 3)]
    assert weights(tmp_path / "trained") == weights(tmp_path / "best")
