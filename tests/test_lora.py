"""LoRA: only the matrices change, the finished model has them in its weights, a killed training goes on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from miner.errors import MissingExtraError, UsageError
from miner.training import steps
from miner.training.encoder import train_encoder
from tests.tiny import tiny_bert
from tests.train_support import CONFIG, frozen, of, triplets, weights

__all__ = ["frozen"]

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.05)


@needs_peft
def test_it_learns_and_the_model_loads_without_peft(tiny: Path, tmp_path: Path) -> None:
    config = of(tiny, lora=4, learning_rate=2e-2)
    metrics = train_encoder(triplets(), tmp_path / "out", config).metrics
    assert metrics.losses[-1][1] < 0.9 * metrics.losses[0][1]
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny, tmp_path / "out"))
    assert not [name for name in after if "lora" in name or "base_layer" in name]
    changed = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert changed
    assert all("layer." in name and name.endswith("weight") and "LayerNorm" not in name for name in changed)
    assert SentenceTransformer(str(tmp_path / "out")).encode(["a"]).shape == (1, 32)
    assert "| lora | 4 |" in (tmp_path / "out" / "README.md").read_text("utf-8")


@needs_peft
def test_a_killed_training_goes_on_to_the_same_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miner.engine.progress import Silent

    class Deadly(Silent):
        """Ends the training after some notes, as Ctrl-C would."""

        def note(self, message: str) -> None:
            if message.startswith("step 3"):
                raise KeyboardInterrupt

    config = of(tiny, lora=4, learning_rate=1e-2, max_steps=6)
    train_encoder(triplets(), tmp_path / "whole", config)
    monkeypatch.setattr(steps, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(triplets(), tmp_path / "killed", config, progress=Deadly())
    train_encoder(triplets(), tmp_path / "killed", config)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_without_peft_the_extra_is_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="peft, which lora needs, is not installed"):
        train_encoder(triplets(), tmp_path / "out", of(tiny, lora=4))


def test_a_table_has_no_layers(tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(UsageError, match="lora needs a transformer as base, scratch is a table of token"):
        train_encoder(triplets(), tmp_path / "out", replace(CONFIG, lora=4))
