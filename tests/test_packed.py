"""Packed linear layers give the same outputs up to rounding, or leave the model as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertModel

from miner.models.encoder import Encoder
from miner.models.packed import PackedLinear, pack
from miner.models.reranker import Reranker
from tests.tiny import tiny_bert


def output(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(3 * 16).reshape(3, 16) + 1000
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.float()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_a_packed_model_gives_the_same_output(
    tmp_path: Path, dtype: torch.dtype, tolerance: float, activation: str
) -> None:
    folder = tiny_bert(tmp_path / "bert", hidden_act=activation)
    model = BertModel.from_pretrained(folder, dtype=dtype).eval()
    before = output(model)
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not pack(model, lambda: output(model))
        assert torch.equal(output(model), before)
        return
    assert pack(model, lambda: output(model))
    assert (output(model) - before).abs().max() < tolerance
    layer = model.encoder.layer[0]
    assert isinstance(layer.intermediate.dense, PackedLinear)
    assert isinstance(layer.intermediate.intermediate_act_fn, nn.Identity) == (activation == "gelu")


class ReadsWeights(nn.Module):
    """A module that reads the weights of its layer, which a packed one does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the layer's output with its weights added."""
        return self.dense(inputs) + self.dense.weight


def test_a_model_that_needs_its_layers_stays_as_it_is() -> None:
    model = ReadsWeights().eval()
    dense, inputs = model.dense, torch.ones(4, 4)
    assert not pack(model, lambda: model(inputs))
    assert model.dense is dense


def test_encoders_and_rerankers_on_a_processor_are_packed(tmp_path: Path) -> None:
    encoder = Encoder("bundled", dtype="fp32")
    if encoder.device != "cpu":
        pytest.skip("the model is on a GPU")
    reranker = Reranker(str(tiny_bert(tmp_path / "cross", labels=1)), dtype="fp32")
    for model in (encoder._model, reranker._models[0]._model):
        assert any(isinstance(module, PackedLinear) for module in model.modules())
        assert not any(type(module) is nn.Linear for module in model.modules())
