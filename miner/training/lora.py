"""LoRA (Hu et al. 2022): a training changes two thin matrices beside each linear layer, and no other weight.

The finished model has them added to its own weights, so that it loads without peft.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from miner.errors import MissingExtraError, UsageError

_ALPHA = 2
"""The factor of the matrices, in ranks: their product is multiplied by it."""


def add_lora(model: SentenceTransformer, rank: int, base: str) -> None:
    """Adds matrices of a rank beside all linear layers of a transformer, and freezes all other weights.

    Raises MissingExtraError without peft, UsageError if `base`, the model's name, is not a transformer.
    """
    if not isinstance(model[0], Transformer):
        raise UsageError(
            f"lora needs a transformer as base, {base} is a table of token vectors", "leave lora out"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("peft, which lora needs,", "lora") from error
    for weights in model.parameters():
        weights.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=_ALPHA * rank, target_modules="all-linear")
    inject_adapter_in_model(settings, model[0].model)


def has_lora(model: Any) -> bool:
    """Returns whether a model has such matrices."""
    return any(_is_lora(module) for module in model.modules())


def without_lora(model: Any) -> Any:
    """Returns the model itself, or a copy whose weights include the matrices."""
    if not has_lora(model):
        return model
    copy = deepcopy(model)
    for name, module in list(copy.named_modules()):
        if _is_lora(module):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(copy.get_submodule(parent), child, module.get_base_layer())
    for weights in copy.parameters():
        weights.requires_grad_(True)
    return copy


def _is_lora(module: Any) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")
