"""The losses of `miner train` and their variants, against their formulas in plain Python."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from miner.errors import UsageError
from miner.text import text_keys
from miner.training.batches import KnownPositives, MaskingCollator, PairBatches
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.encoder_losses import encoder_loss, masked_similarity, teacher_temperature
from miner.training.encoder_trainer import load_base, load_model
from miner.training.examples import Examples
from tests.cache_support import Notes
from tests.tiny import tiny_bert, word_table
from tests.train_support import CONFIG, frozen, of, triplets

__all__ = ["frozen"]

Vectors = Sequence[Any]
ROWS = 5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "guide", seed=7)


def cosine(a: Any, b: Any) -> float:
    return float(np.dot(a, b) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b))))


def log_sum_exp(values: Sequence[float]) -> float:
    return math.log(sum(math.exp(value) for value in values))


def ranking(
    columns: Sequence[Vectors], mask: Any, config: EncoderConfig, fixed: Sequence[Vectors] | None = None
) -> float:
    """The ranking loss of anchors, positives and negatives; `fixed` are the vectors of hardness weights."""
    anchors, documents = columns[0], [vector for column in columns[1:] for vector in column]
    still_anchors, *others = fixed or columns
    still = [vector for column in others for vector in column]
    count, total = len(anchors), 0.0
    weighed = {"in-batch": {"other"}, "hard": {"own"}, "all": {"other", "own"}, None: set[str]()}[
        config.hardness
    ]
    for i in range(count):
        forward = []
        for k, document in enumerate(documents):
            kind = "positive" if k == i else "own" if k % count == i else "other"
            logit = config.scale * cosine(anchors[i], document)
            if kind in weighed:
                logit += config.strength * cosine(still_anchors[i], still[k])
            if not mask[i, k]:
                forward.append(logit)
        positive = config.scale * cosine(anchors[i], documents[i])
        to_anchors = [config.scale * cosine(documents[i], anchors[j]) for j in range(count) if not mask[j, i]]
        if config.directions == "forward":
            total += log_sum_exp(forward) - positive
        elif config.directions == "symmetric":
            total += (log_sum_exp(forward) + log_sum_exp(to_anchors)) / 2 - positive
        else:
            among = [
                config.scale * cosine(anchors[i], anchors[j])
                for j in range(count)
                if j != i and not mask[i, j]
            ]
            others = [
                config.scale * cosine(documents[i], documents[k])
                for k in range(len(documents))
                if k % count != i and not mask[i, k]
            ]
            total += log_sum_exp([*forward, *to_anchors, *among, *others]) - positive
    return total / count


def distilled(columns: Sequence[Vectors], scores: Any, student: float, teacher: float) -> float:
    """The KL divergence of the model's distribution from the teacher's, times the student's temperature²."""
    total = 0.0
    for i, anchor in enumerate(columns[0]):
        own = [cosine(anchor, column[i]) / student for column in columns[1:]]
        goal = [score / teacher for score in scores[i]]
        for x, y in zip(own, goal, strict=True):
            wanted = math.exp(y - log_sum_exp(goal))
            total += wanted * (y - log_sum_exp(goal) - (x - log_sum_exp(own)))
    return total / len(columns[0]) * student**2


def guided(columns: Sequence[Vectors], by_guide: Sequence[Vectors], config: EncoderConfig) -> float:
    """GISTEmbed: whatever the guide scores above the positive, less the margin, is left out."""
    count, total = len(columns[0]), 0.0
    for i in range(count):
        own = cosine(by_guide[0][i], by_guide[1][i])
        limit = own - (config.guide_margin or 0) - abs(own) * (config.guide_relative_margin or 0)
        logits, positive = [], config.scale * cosine(columns[0][i], columns[1][i])
        pairs = [(0, column) for column in range(1, len(columns))]
        pairs += [(0, 0), (1, 1)] if config.contrast else []
        for left, right in pairs:
            for j in range(count):
                if (left, right, i) == (0, 1, j):
                    logits.append(positive)
                elif not cosine(by_guide[left][i], by_guide[right][j]) > limit:
                    logits.append(config.scale * cosine(columns[left][i], columns[right][j]))
        total += log_sum_exp(logits) - positive
    return total / count


def vectors(columns: int, dimension: int = 6, seed: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(columns, ROWS, dimension, generator=generator, dtype=torch.float64)
    return [column.clone().requires_grad_() for column in drawn]


def check_gradient(
    loss: torch.Tensor, columns: Sequence[torch.Tensor], formula: Callable[[Sequence[Vectors]], float]
) -> None:
    """Compares value and gradient with finite differences of the formula, at some coordinates."""
    loss.backward()
    plain = [column.detach().numpy().copy() for column in columns]
    assert float(loss) == pytest.approx(formula(plain), rel=1e-6)
    rng, step = np.random.default_rng(1), 1e-5
    for column, array in enumerate(plain):
        for _ in range(3):
            at = (rng.integers(array.shape[0]), rng.integers(array.shape[1]))
            ends = []
            for sign in (1, -1):
                moved = [one.copy() for one in plain]
                moved[column][at] += sign * step
                ends.append(formula(moved))
            found = columns[column].grad
            assert found is not None
            assert float(found[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-7)


def some_mask(columns: int) -> Any:
    """A mask of some known positives, but no row's own."""
    mask = np.random.default_rng(2).random((ROWS, ROWS * (columns - 1))) < 0.2
    mask[np.arange(ROWS), np.arange(ROWS)] = False
    return mask


@pytest.mark.parametrize("loss", ["mnr", "cached-mnr"])
@pytest.mark.parametrize("directions", ["forward", "symmetric", "all"])
@pytest.mark.parametrize("hardness", [None, "in-batch", "hard", "all"])
def test_rankings_in_all_directions_with_hardness_and_masks(
    tiny: Path, loss: str, directions: str, hardness: str | None
) -> None:
    config = of(tiny, loss=loss, directions=directions, hardness=hardness, scale=5.0)
    if loss == "cached-mnr":
        config = replace(config, mini_batch=2)
    model = load_base(config)
    masked = masked_similarity(model, config)
    made: Any = encoder_loss(model, None, triplets(), config, masked)
    columns, mask = vectors(4), some_mask(4)
    masked.mask = torch.from_numpy(mask)
    value = (
        made.compute_loss_from_embeddings(columns, None)
        if loss == "mnr"
        else made.calculate_loss([[column] for column in columns])
    )
    fixed = [column.detach().numpy() for column in columns]
    check_gradient(value, columns, lambda moved: ranking(moved, mask, config, fixed))


def test_distillation_is_the_divergence_from_the_teachers_distribution(tiny: Path) -> None:
    config = of(tiny, loss="distill", scale=4.0, teacher_temperature=2.0)
    scores = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    model = load_base(config)
    examples = replace(triplets(), target=scores.tolist())
    made: Any = encoder_loss(model, None, examples, config, masked_similarity(model, config))
    columns = vectors(4)
    value = made.compute_loss_from_embeddings(columns, scores)
    check_gradient(value, columns, lambda moved: distilled(moved, scores.tolist(), 1 / 4.0, 2.0))


def test_the_teachers_temperature_follows_its_scores() -> None:
    rows, config = triplets(), EncoderConfig(loss="distill")
    assert teacher_temperature(replace(rows, target=[[0.9, 0.1]]), config, 20.0) == 1 / 20
    assert teacher_temperature(replace(rows, target=[[9.0, -3.0]]), config, 20.0) == 1
    own = replace(config, teacher_temperature=0.5)
    assert teacher_temperature(replace(rows, target=[[0.9, 0.1]]), own, 20.0) == 0.5


@pytest.mark.parametrize("loss", ["gist", "cached-gist"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"guide_margin": 0.1}, {"guide_relative_margin": 0.1}, {"contrast": False, "guide_margin": 0.05}],
)
def test_a_guide_leaves_out_what_it_scores_near_the_positive(
    tiny: Path, guide: Path, loss: str, settings: dict[str, Any]
) -> None:
    config = of(tiny, loss=loss, guide=str(guide), scale=5.0, **settings)
    model, teacher = load_base(config).eval(), load_model(str(guide)).eval()
    rows = triplets().take(range(ROWS))
    texts = list(rows.texts.values())
    if loss == "cached-gist":
        texts.append(triplets().texts["negative"][ROWS : 2 * ROWS])
    made = encoder_loss(model, teacher, rows, config, masked_similarity(model, config))
    value = made([model.preprocess(list(column)) for column in texts], None)
    columns, by_guide = ([one.encode(list(column)) for column in texts] for one in (model, teacher))
    assert float(value) == pytest.approx(guided(columns, by_guide, config), rel=1e-4)


@pytest.mark.parametrize("loss", ["mnr", "cached-mnr"])
def test_shorter_vectors_are_trained_too(tiny: Path, loss: str) -> None:
    config = of(tiny, loss=loss, dimensions=(8, 16), scale=5.0)
    if loss == "cached-mnr":
        config = replace(config, mini_batch=2)
    model = load_base(config).eval()
    masked, mask = masked_similarity(model, config), some_mask(3)
    masked.mask = torch.from_numpy(mask)
    rows = triplets().take(range(ROWS))
    made = encoder_loss(model, None, rows, config, masked)
    texts = [list(column) for column in rows.texts.values()]
    value = made([model.preprocess(column) for column in texts], None)
    columns = [model.encode(column).astype(np.float64) for column in texts]
    expected = sum(ranking([c[:, :length] for c in columns], mask, config) for length in (8, 16, 32))
    assert float(value) == pytest.approx(expected, rel=1e-4)


VARIANTS: list[dict[str, Any]] = [
    {"directions": "all", "hardness": "in-batch"},
    {"directions": "symmetric", "hardness": "hard", "dimensions": (4, 8)},
    {"loss": "distill", "dimensions": (8,)},
    {"epoch_positives": "one"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_variant_learns(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = replace(CONFIG, evaluations=0, **settings)
    rows = triplets()
    if config.loss == "distill":
        rows = replace(rows, target=[[0.9, 0.1]] * len(rows))
    metrics = train_encoder(rows, tmp_path / "out", config).metrics
    assert metrics.losses[-1][1] < 0.8 * metrics.losses[0][1]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    for name, value in settings.items():
        shown = ", ".join(map(str, value)) if name == "dimensions" else value
        assert f"| {name} | {shown} |" in card
    assert ("| dimensions |" in card) == ("dimensions" in settings)


def test_one_positive_of_each_anchor_comes_per_epoch_and_all_in_turn() -> None:
    anchors = [f"q{number % 6}" for number in range(18)]
    keys = np.stack([text_keys(anchors), text_keys([f"d{number}" for number in range(18)])], axis=1)
    batches = PairBatches(keys, 4, 13, True, one_positive=True)
    assert (len(batches), batches.rows) == (2, 6)
    seen: set[int] = set()
    for epoch in range(30):
        batches.set_epoch(epoch)
        rows = [row for batch in batches for row in batch]
        assert sorted(anchors[row] for row in rows) == [f"q{number}" for number in range(6)]
        assert rows == [row for batch in batches for row in batch]
        seen.update(rows)
    assert seen == set(range(18))


def test_a_negative_that_a_row_has_twice_counts_once() -> None:
    texts = {
        "anchor": ["a", "b"], "positive": ["p", "q"], "negative_1": ["n", "m"], "negative_2": ["n", "o"],
    }  # fmt: skip
    none = KnownPositives(np.array([], np.int64), np.array([], np.int64))

    class Inner:
        """Stands for the library's collator, which makes tensors of texts."""

        valid_label_columns = ("label",)

        def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
            return {}

    collator = MaskingCollator(Inner(), texts, none)  # type: ignore[arg-type]
    batch = collator([{name: column[row] for name, column in texts.items()} for row in range(2)])
    (mask,) = batch.values()
    assert mask.tolist() == [[False, False, False, False, True, False]] * 2


def test_what_a_base_or_rows_cannot_do_is_refused(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(
        UsageError, match=r"dimensions has 64, but a vector of .* has 32 numbers; name smaller"
    ):
        train_encoder(triplets(), tmp_path / "out", of(tiny, dimensions=(64,)))
    pairs = Examples(dict(list(triplets().texts.items())[:2]))
    with pytest.raises(
        UsageError, match="hardness=hard weighs the negatives of a row, and the rows have none"
    ):
        train_encoder(pairs, tmp_path / "out", replace(CONFIG, hardness="hard"))
    words = {text: [1.0, 2.0] for text in ("lentils", "river")}
    dot = word_table(tmp_path / "dot", words, similarity="dot")
    with pytest.raises(
        UsageError, match=r"hardness weighs cosines, but .* compares by dot; leave hardness out"
    ):
        train_encoder(triplets(), tmp_path / "out", of(dot, hardness="in-batch"))
    with pytest.raises(UsageError, match=r"dimensions are trained by cosine, but .* compares by dot"):
        train_encoder(triplets(), tmp_path / "out", of(dot, dimensions=(1,)))


def test_a_guide_that_reads_other_prompts_than_its_own_is_said(
    tmp_path: Path, tiny: Path, guide: Path
) -> None:
    """The library's losses give a guide the texts as the trained model reads them."""
    own = shutil.copytree(guide, tmp_path / "guide")
    file = own / "config_sentence_transformers.json"
    SentenceTransformer(str(own)).save_pretrained(str(own), create_model_card=False)
    settings = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(settings | {"prompts": {"query": "query: ", "document": "passage: "}}))
    notes = {}
    for name in (own, guide):
        notes[name] = Notes()
        config = of(tiny, loss="gist", guide=str(name), max_steps=1)
        train_encoder(triplets(), tmp_path / f"out-{len(notes)}", config, progress=notes[name])
    said = [note for note in notes[own].said if note.startswith("warning: guide ")]
    assert len(said) == 1
    assert "has prompts ['query: ', 'passage: ']" in said[0]
    assert not [note for note in notes[guide].said if note.startswith("warning: guide ")]
