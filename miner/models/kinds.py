"""What a model's files say that it is: an encoder and how it is used, a reranker, or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from miner.errors import ModelError
from miner.models.names import ModelFolder
from miner.models.similarity import COSINE, DOT, SIMILARITIES
from miner.models.weights import FOLDS_FILE, ROUTERS, modules_of

_HEADS = ("ForSequenceClassification", "ForCausalLM", "ForConditionalGeneration")
"""Architectures that give a pair a score; the rest are encoders without a head."""


ANOTHER = "name a bi-encoder, such as sentence-transformers/all-MiniLM-L6-v2 or bundled"
"""What to do about a model that is none."""
_SPARSE = {
    "MLMTransformer",
    "SpladePooling",
    "SparseStaticEmbedding",
    "IDF",
    "SparseAutoEncoder",
    "CSRSparsity",
}
_MULTI_VECTOR = {
    "MultiVectorMask", "BaseTokenPooling", "HierarchicalTokenPooling", "LambdaTokenPooling"
}  # fmt: skip
"""Modules of a SparseEncoder and of a MultiVectorEncoder alone (sentence-transformers 5 and 6)."""
_LATE_INTERACTION = ("ColBERT", "HF_ColBERT", "ColPali", "ColQwen2", "ColModernVBert")
"""Architectures of PyLate, Stanford's ColBERT and transformers that give a vector per token."""


def is_reranker(folder: Path) -> bool:
    """Returns whether a model scores pairs. Of a bare transformer its architecture tells."""
    if (folder / FOLDS_FILE).exists():
        return True
    saved = _read(folder / "config_sentence_transformers.json")
    if "model_type" in saved or (folder / "modules.json").exists():
        return bool(saved.get("model_type") == "CrossEncoder")
    return _architecture(folder).endswith("ForSequenceClassification")


def require_encoder(model: ModelFolder) -> None:
    """Raises ModelError for what is not a bi-encoder: it would load as one, with meaningless vectors."""
    if is_reranker(model.path):
        raise ModelError(
            f"{model.name} is a reranker (a cross-encoder): it scores pairs and has no vectors", ANOTHER
        )
    saved = _read(model.path / "config_sentence_transformers.json")
    kind = saved.get("model_type", "SentenceTransformer")
    modules = {module.name for module in modules_of(model.path)}
    if kind == "SparseEncoder" or modules & _SPARSE:
        raise ModelError(
            f"{model.name} is a sparse encoder (SPLADE and its kin): miner does not support these yet",
            ANOTHER,
        )
    if kind in ("MultiVectorEncoder", "ColBERT") or modules & _MULTI_VECTOR or _is_late(model.path):
        raise ModelError(
            f"{model.name} is a multi-vector encoder (ColBERT and its kin): miner does not support these yet",
            ANOTHER,
        )
    if kind != "SentenceTransformer":
        raise ModelError(f"{model.name} is a {kind}: miner supports a SentenceTransformer here", ANOTHER)


def _is_late(folder: Path) -> bool:
    named = any(module.kind.startswith("pylate.") for module in modules_of(folder))
    return (
        named
        or (folder / "artifact.metadata").exists()
        or _architecture(folder).startswith(_LATE_INTERACTION)
    )


def has_routes(folder: Path) -> bool:
    """Returns whether queries and documents go through different modules (a Router, once called Asym)."""
    return any(module.name in ROUTERS for module in modules_of(folder))


def own_similarity(model: ModelFolder) -> str:
    """Returns the similarity that a model's files name, cosine where they name none.

    The dot product of a model that normalises its vectors is their cosine. Raises ModelError for a name
    that is none of `SIMILARITIES`.
    """
    named = _read(model.path / "config_sentence_transformers.json").get("similarity_fn_name") or COSINE
    if named not in SIMILARITIES:
        raise ModelError(
            f"{model.name} compares vectors by '{named}' (similarity_fn_name), which miner does not support",
            f"name a model that uses one of {', '.join(SIMILARITIES)}",
        )
    *_, last = modules_of(model.path)
    return COSINE if named == DOT and last.name == "Normalize" else str(named)


def own_prompts(folder: Path) -> dict[str, str]:
    """Returns a model's own prompts for the roles `query` and `document`; empty where it has none.

    Models call the second role document, passage or corpus. As in `encode_query` and `encode_document` of
    sentence-transformers, `default_prompt_name` does not count: it is for texts that have no role.
    """
    own = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
    document = next(
        (own[name] for name in ("document", "passage", "corpus") if own.get(name) is not None), ""
    )
    return {"query": own.get("query") or "", "document": document}


def require_head(name: str, folder: Path) -> None:
    """Raises ModelError when nothing in the model gives a pair a score.

    A table of token vectors has no architecture, and no head can be put on it.
    """
    architecture = _architecture(folder)
    if architecture.endswith(_HEADS):
        require_one_score(name, folder)
        return
    has = f"{architecture} has" if architecture else "it has"
    hint = "name a cross-encoder, such as cross-encoder/ms-marco-MiniLM-L6-v2"
    if architecture:
        hint = f"make one of it: miner train-reranker STORE OUT --base {name}"
    raise ModelError(f"{name} is no reranker: {has} no head that scores a pair", hint)


def require_one_score(name: str, folder: Path) -> None:
    """Raises ModelError for a classifier of several labels, as for entailment, by its configuration alone."""
    scores = _scores(folder)
    if scores != 1:
        raise ModelError(
            f"{name} gives {scores} scores per pair, a reranker gives one",
            "name a cross-encoder with num_labels = 1, or train one: "
            "miner train-reranker STORE OUT --base bundled",
        )


def _scores(folder: Path) -> int:
    """How many scores a pair gets: those of a last Dense layer, or of the transformer's head."""
    for module in reversed(modules_of(folder)):
        config = _read(folder / module.place / "config.json")
        if module.name == "Dense" and config.get("module_output_name") == "scores":
            return int(config.get("out_features") or 1)
        if module.name == "Transformer" and _architecture(folder / module.place).endswith(
            "ForSequenceClassification"
        ):
            labels = config.get("id2label")
            # transformers saves neither for its default of two labels.
            return len(labels) if isinstance(labels, dict) else int(config.get("num_labels") or 2)
    return 1


def _architecture(folder: Path) -> str:
    names = _read(folder / "config.json").get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _read(file: Path, default: Any = None) -> Any:
    """What a JSON file holds; `default` (an empty object) where it holds nothing of that kind."""
    empty: Any = {} if default is None else default
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return empty
    return content if isinstance(content, type(empty)) else empty
