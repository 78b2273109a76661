"""Settings of a training that cannot be, each with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from miner.errors import UsageError
from miner.training.encoder_config import EncoderConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss": "tripelt"},
            "no loss 'tripelt' (did you mean 'triplet'?); "
            "choose one of: mnr, cached-mnr, gist, cached-gist, cosine, softmax, triplet, margin-mse, "
            "distill",
        ),
        ({"loss": "gist"}, "loss gist needs a guide model; name one: --set guide=MODEL, such as bundled"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 100,000, got 0"),
        ({"evaluations": -1}, "evaluations must be a whole number from 0 to 10,000, got -1"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4,294,967,295, got -1"),
        ({"seed": 1 << 32}, "seed must be a whole number from 0 to 4,294,967,295, got 4294967296"),
        ({"patience": 0}, "patience must be a whole number from 1 to 1,000,000,000, got 0"),
        ({"epochs": 0}, "epochs must be a number above 0 and at most 10,000, got 0"),
        ({"epochs": float("inf")}, "epochs must be a number above 0 and at most 10,000, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0 and at most 1e+38, got 0.0"),
        ({"warmup": 1.0}, "warmup must be a number at least 0 and below 1, got 1.0"),
        ({"max_length": 7}, "max_length must be a whole number from 8 to 1,000,000, got 7"),
        ({"dtype": "fp16"}, "dtype must be one of auto, fp32, bf16, got 'fp16' (did you mean 'bf16'?)"),
        ({"margin": 0.5}, "margin has no effect on loss mnr; it is for triplet"),
        (
            {"scale": 10.0, "loss": "cosine"},
            "scale has no effect on loss cosine; it is for mnr, cached-mnr, gist, cached-gist, distill",
        ),
        ({"mini_batch": 8}, "mini_batch has no effect on loss mnr; it is for cached-mnr, cached-gist"),
        (
            {"loss": "cached-gist"},
            "loss cached-gist needs a guide model; name one: --set guide=MODEL, such as bundled",
        ),
        (
            {"hardness": "hrad"},
            "hardness must be one of in-batch, hard, all, got 'hrad' (did you mean 'hard'?)",
        ),
        (
            {"hardness": "hard", "loss": "triplet"},
            "hardness has no effect on loss triplet; it is for mnr, cached-mnr",
        ),
        (
            {"hardness_strength": 3.0},
            "hardness_strength has no effect without hardness; set hardness to in-batch or hard or all",
        ),
        ({"directions": "back"}, "directions must be one of forward, symmetric, all, got 'back'"),
        ({"teacher_temperature": 2.0}, "teacher_temperature has no effect on loss mnr; it is for distill"),
        (
            {"loss": "gist", "guide": "bundled", "guide_margin": 0.1, "guide_relative_margin": 0.05},
            "guide_margin and guide_relative_margin are both given; leave one of them out",
        ),
        ({"contrast": False}, "contrast has no effect on loss mnr; it is for gist, cached-gist"),
        ({"dimensions": (0,)}, "dimensions must be a whole number from 1 to 100,000, got 0"),
        (
            {"dimensions": (8,), "loss": "softmax"},
            "dimensions has no effect on loss softmax; it is for mnr, cached-mnr, gist, cached-gist, cosine, "
            "triplet, margin-mse, distill",
        ),
        ({"epoch_positives": "two"}, "epoch_positives must be one of all, one, got 'two'"),
        ({"guide": "bundled"}, "loss mnr has no guide; leave guide out, or use loss gist"),
        ({"dimension": 8}, "dimension has no effect on base bundled; it is for scratch"),
        ({"tokenizer": "x", "base": "m"}, "tokenizer has no effect on base m; it is for scratch"),
        (
            {"patience": 2, "evaluations": 0},
            "patience has no effect without evaluations; leave one of them out",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        EncoderConfig(**settings)
    assert str(caught.value) == message
