"""Training an encoder: every loss learns, the best model is kept, the same again is the same."""

from __future__ import annotations

import json
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from miner.models.encoder import Encoder
from miner.models.scratch import scratch_model
from miner.training.encoder import known_positives, train_encoder
from miner.training.encoder_config import LOSSES, EncoderConfig
from miner.training.encoder_trainer import DevTask, load_base
from miner.training.examples import Examples
from miner.training.steps import step_count
from tests.tiny import tiny_bert
from tests.train_support import (
    CONFIG,
    DEV,
    TOPICS,
    Notes,
    dev,
    examples_for,
    falling,
    frozen,
    goodness,
    of,
    settings_for,
    tiny,
    triplets,
    weights,
)

__all__ = ["dev", "frozen", "tiny"]


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
    assert dev.score(model).means["nDCG@10"] == pytest.approx(scores[metrics.best_step]["nDCG@10"])
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
    assert "The model was not scored during training: see `miner evaluate`." in card
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


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(tiny: Path, tmp_path: Path) -> None:
    short = of(tiny, learning_rate=1e-3, max_steps=2)
    for dtype in ("bf16", "fp32"):
        metrics = train_encoder(triplets(), tmp_path / dtype, replace(short, dtype=dtype)).metrics
        assert (metrics.dtype, [step for step, _ in metrics.losses]) == (dtype, [1, 2])
        assert all(isfinite(loss) for _, loss in metrics.losses)
        found = load_file(tmp_path / dtype / "model.safetensors")
        assert {str(values.dtype) for values in found.values()} == {"float32"}
    assert weights(tmp_path / "bf16") != weights(tmp_path / "fp32")


def test_the_best_model_is_kept_not_the_last(tmp_path: Path) -> None:
    config = replace(CONFIG, evaluations=6)
    report = train_encoder(triplets(), tmp_path / "best", config, dev=falling())
    assert (report.metrics.best_step, report.metrics.steps) == (4, 24)
    assert [step for step, _ in report.metrics.scores] == [0, 4, 8, 12, 16, 20, 24]
    train_encoder(triplets(), tmp_path / "last", config)
    assert weights(tmp_path / "best") != weights(tmp_path / "last")


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    scores = iter([nan, 0.2, nan, 0.1])
    task = DevTask("goodness", "some", "gaps", lambda model: goodness(next(scores)))
    report = train_encoder(triplets(), tmp_path / "out", replace(CONFIG, evaluations=3), dev=task)
    assert report.metrics.best_step == report.metrics.scores[1][0]


def test_it_stops_when_it_gets_no_better(tmp_path: Path) -> None:
    notes = Notes()
    config = replace(CONFIG, evaluations=6, patience=2)
    report = train_encoder(triplets(), tmp_path / "out", config, dev=falling(), progress=notes)
    assert (report.metrics.best_step, report.metrics.steps) == (4, 12)
    assert "no better score in 2 evaluations: stopped" in notes.said
    assert [note for note in notes.said if "dev" in note] == [
        "step 0: dev goodness 0.5000",
        "step 4: dev goodness 0.9800",
        "step 8: dev goodness 0.9700",
        "step 12: dev goodness 0.9600",
    ]


def test_a_base_that_was_better_all_along_is_kept(tmp_path: Path) -> None:
    task = DevTask("goodness", "nothing", "zero", lambda model: goodness(0.0))
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


def test_no_text_is_read_further_than_requested(tiny: Path) -> None:
    assert load_base(of(tiny, max_length=16)).max_seq_length == 16
    assert load_base(of(tiny, max_length=256)).max_seq_length == 64, "its own"
    assert load_base(of("bundled", max_length=100)).max_seq_length == 100


def test_texts_that_are_read_in_part_are_counted(tiny: Path, tmp_path: Path) -> None:
    """A limit of 8 leaves 6 tokens beside the special ones."""
    long, fits = "one two three four five six seven", "one two three four five six"
    texts = {"anchor": ["a", "b", fits], "positive": [long, f"{long} eight", "c"], "negative": [long] * 3}
    short, out = of(tiny, max_length=8, batch_size=3, max_steps=1), tmp_path / "out"
    notes = Notes()
    metrics = train_encoder(Examples(texts), out, short, progress=notes).metrics
    assert notes.said[0] == "2 texts are longer than 8 tokens: only the start is read"
    assert metrics.trained == "1 step of at most 3 rows; 2 texts truncated"
    assert json.loads((out / "metrics.json").read_text("utf-8"))["truncated"] == metrics.truncated == 2
    cases = {
        "prompt": (replace(short, query_prompt="ask: "), 3),
        "unseen": (replace(short, batch_size=1, seed=1), 1),
        "fits": (replace(short, max_length=16), 0),
        "table": (replace(CONFIG, max_length=8, max_steps=1), 0),
    }
    for name, (config, expected) in cases.items():
        assert train_encoder(Examples(texts), tmp_path / name, config).metrics.truncated == expected, name


def test_figures_of_before_texts_were_counted_are_still_read(tmp_path: Path) -> None:
    out, short = tmp_path / "out", replace(CONFIG, max_steps=1)
    train_encoder(triplets(), out, short)
    stored = json.loads((out / "metrics.json").read_text("utf-8"))
    del stored["truncated"]
    (out / "metrics.json").write_text(json.dumps(stored))
    again = train_encoder(triplets(), out, short)
    assert (again.reused, again.metrics.truncated) == (True, None)


def test_the_length_is_the_models_from_then_on(tiny: Path, tmp_path: Path) -> None:
    train_encoder(triplets(), tmp_path / "out", of(tiny, max_length=8, max_steps=1))
    model = SentenceTransformer(str(tmp_path / "out"))
    assert model.max_seq_length == 8
    same = model.encode(["a b c d e f g h i j", "a b c d e f z z z z"])
    np.testing.assert_array_equal(same[0], same[1])


def test_rows_that_find_no_batch_are_counted(tmp_path: Path) -> None:
    rows = Examples({"anchor": ["one", "one", "one", "two"], "positive": ["a", "b", "c", "d"]})
    notes, short = Notes(), replace(CONFIG, batch_size=4, epochs=2)
    assert train_encoder(rows, tmp_path / "out", short, progress=notes).metrics.left_out == 2
    assert notes.said[0] == (
        "each epoch leaves out 2 of 4 rows: every batch already contains their texts; "
        "smaller batches leave out fewer"
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
