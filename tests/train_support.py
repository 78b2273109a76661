"""What trainings of encoders in tests share: rows that nothing but training can tell, and a dev split."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from miner.engine.progress import SILENT
from miner.evaluation.result import Evaluation
from miner.training.encoder_config import EncoderConfig
from miner.training.encoder_trainer import DevTask
from miner.training.examples import Examples
from miner.training.model_card import EncoderReport
from miner.workflows.train import dev_task
from tests.evaluation_support import judged_store
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
PAIRED = ("gist", "cached-gist", "cached-mnr")
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
    if loss in ("margin-mse", "distill"):
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


def goodness(value: float) -> Evaluation:
    """Returns an evaluation of one measure."""
    return Evaluation("retrieval", (), {}, {"goodness": value})


def falling() -> DevTask:
    """A measure that is best at the first score after the base and falls from then on."""
    seen: list[SentenceTransformer] = []

    def score(model: SentenceTransformer) -> Evaluation:
        seen.append(model)
        return goodness(0.5 if len(seen) == 1 else 1 - len(seen) / 100)

    return DevTask("goodness", "a fall", "falls", score)


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
    if loss == "cached-gist":
        return of(tiny, loss=loss, learning_rate=5e-3, guide=str(guide), mini_batch=8)
    if loss == "cached-mnr":
        return of(tiny, loss=loss, learning_rate=5e-3, mini_batch=8)
    if loss == "softmax":  # nearness is only a side effect of telling classes apart
        return replace(CONFIG, loss=loss, dimension=64, learning_rate=0.3)
    return replace(CONFIG, loss=loss)
