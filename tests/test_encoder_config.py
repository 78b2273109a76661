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
            "choose one of: mnr, cached-mnr, gist, cosine, softmax, triplet, margin-mse",
        ),
        ({"loss": "gist"}, "gist needs a model that guides it; name one with --guide, such as bundled"),
        ({"batch_size": 0}, "batch_size cannot be 0; use at least 1"),
        ({"evaluations": -1}, "evaluations cannot be -1; use 0 or more"),
        ({"seed": -1}, "seed cannot be -1; use 0 to 2**32 - 1"),
        ({"seed": 1 << 32}, "seed cannot be 4294967296; use 0 to 2**32 - 1"),
        ({"patience": 0}, "patience cannot be 0; use at least 1"),
        ({"epochs": 0}, "epochs cannot be 0; use above 0"),
        ({"epochs": float("inf")}, "epochs cannot be inf; use above 0"),
        ({"learning_rate": 0.0}, "learning_rate cannot be 0.0; use above 0"),
        ({"warmup": 1.0}, "warmup cannot be 1.0; use at least 0 and below 1"),
        ({"max_length": 7}, "max_length cannot be 7; use at least 8"),
        ({"dtype": "fp16"}, "dtype cannot be fp16; use auto, fp32 or bf16"),
        ({"margin": 0.5}, "margin has no effect on loss mnr; it is for triplet"),
        (
            {"scale": 10.0, "loss": "cosine"},
            "scale has no effect on loss cosine; it is for mnr, cached-mnr, gist",
        ),
        ({"mini_batch": 8}, "mini_batch has no effect on loss mnr; it is for cached-mnr"),
        ({"guide": "bundled"}, "loss mnr takes no guide; leave --guide out, or use --loss gist"),
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
