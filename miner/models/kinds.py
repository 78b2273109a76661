"""What a model's files say that it is: an encoder, or a reranker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from miner.errors import ModelError
from miner.models.names import ModelFolder
from miner.models.weights import FOLDS_FILE

_HEADS = ("ForSequenceClassification", "ForCausalLM", "ForConditionalGeneration")
"""Architectures that give a pair a score; the rest are encoders without a head."""


def is_reranker(folder: Path) -> bool:
    """Returns whether a model scores pairs. Of a bare transformer its architecture tells."""
    if (folder / FOLDS_FILE).exists():
        return True
    saved = _read(folder / "config_sentence_transformers.json")
    if "model_type" in saved or (folder / "modules.json").exists():
        return saved.get("model_type") == "CrossEncoder"
    return _architecture(folder).endswith("ForSequenceClassification")


def require_encoder(model: ModelFolder) -> None:
    """Raises ModelError for a reranker: as an encoder it would load, with vectors that mean nothing."""
    if is_reranker(model.path):
        raise ModelError(
            f"{model.name} is a reranker (a cross-encoder): it scores pairs and has no vectors",
            "name a bi-encoder, such as sentence-transformers/all-MiniLM-L6-v2 or bundled",
        )


def require_head(name: str, folder: Path) -> None:
    """Raises ModelError when nothing in the model gives a pair a score.

    A table of token vectors has no architecture, and no head can be put on it.
    """
    architecture = _architecture(folder)
    if architecture.endswith(_HEADS):
        return
    has = f"{architecture} has" if architecture else "it has"
    hint = "name a cross-encoder, such as cross-encoder/ms-marco-MiniLM-L6-v2"
    if architecture:
        hint = f"make one of it: miner train-reranker STORE OUT --base {name}"
    raise ModelError(f"{name} is no reranker: {has} no head that scores a pair", hint)


def _architecture(folder: Path) -> str:
    names = _read(folder / "config.json").get("architectures") or [""]
    return str(names[0])


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
