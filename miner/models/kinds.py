"""The kind of a model by its files: an encoder and its settings, a reranker, or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from miner.errors import ModelError
from miner.models.names import ModelFolder
from miner.models.similarity import COSINE, DOT, SIMILARITIES
from miner.models.weights import FOLDS_FILE, ROUTERS, modules_of

_HEADS = ("ForSequenceClassification", "ForCausalLM", "ForConditionalGeneration")
"""Architectures that score a pair; the others are encoders without a head."""


ANOTHER = "name a bi-encoder, such as sentence-transformers/all-MiniLM-L6-v2 or bundled"
"""The hint for a model that is not a bi-encoder."""
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
"""Modules that only a SparseEncoder and only a MultiVectorEncoder has (sentence-transformers 5 and 6)."""
_LATE_INTERACTION = ("ColBERT", "HF_ColBERT", "ColPali", "ColQwen2", "ColModernVBert")
"""Architectures of PyLate, Stanford's ColBERT and transformers with one vector per token."""


def is_reranker(folder: Path) -> bool:
    """Returns whether a model scores pairs; for a bare transformer, by its architecture."""
    if (folder / FOLDS_FILE).exists():
        return True
    saved = _read(folder / "config_sentence_transformers.json")
    if "model_type" in saved or (folder / "modules.json").exists():
        return bool(saved.get("model_type") == "CrossEncoder")
    return _architecture(folder).endswith("ForSequenceClassification")


def require_encoder(model: ModelFolder) -> None:
    """Raises ModelError for a model that is not a bi-encoder: it would load, but its vectors mean nothing."""
    if is_reranker(model.path):
        raise ModelError(
            f"{model.name} is a reranker (a cross-encoder): it scores pairs and has no vectors", ANOTHER
        )
    saved = _read(model.path / "config_sentence_transformers.json")
    kind = saved.get("model_type", "SentenceTransformer")
    modules = {module.name for module in modules_of(model.path)}
    if kind == "SparseEncoder" or modules & _SPARSE:
        raise ModelError(
            f"{model.name} is a sparse encoder (such as SPLADE): miner does not support these yet",
            ANOTHER,
        )
    if kind in ("MultiVectorEncoder", "ColBERT") or modules & _MULTI_VECTOR or _is_late(model.path):
        raise ModelError(
            f"{model.name} is a multi-vector encoder (such as ColBERT): miner does not support these yet",
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
    """Returns whether queries and documents go through different modules (a Router, formerly Asym)."""
    return any(module.name in ROUTERS for module in modules_of(folder))


def own_similarity(model: ModelFolder) -> str:
    """Returns the similarity that a model's files name; cosine if they name none.

    The dot product of a model that normalises its vectors is their cosine. Raises ModelError for a name that
    is not in `SIMILARITIES`.
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
    """Returns a model's own prompts for the roles `query` and `document`; empty if it has none.

    Models name the second role document, passage or corpus. `default_prompt_name` is ignored, as in
    `encode_query` and `encode_document` of sentence-transformers: it is for texts without a role.
    """
    own = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
    document = next(
        (own[name] for name in ("document", "passage", "corpus") if own.get(name) is not None), ""
    )
    return {"query": own.get("query") or "", "document": document}


def require_head(name: str, folder: Path) -> None:
    """Raises ModelError if no part of the model scores a pair.

    A table of token vectors has no architecture, and no head can be added to it.
    """
    architecture = _architecture(folder)
    if architecture.endswith(_HEADS) or any(module.name == "LogitScore" for module in modules_of(folder)):
        require_one_score(name, folder)
        return
    has = f"{architecture} has" if architecture else "it has"
    hint = "name a cross-encoder, such as cross-encoder/ms-marco-MiniLM-L6-v2"
    if architecture:
        hint = f"train a reranker from it: miner train-reranker STORE OUT --base {name}"
    raise ModelError(f"{name} is not a reranker: {has} no head that scores a pair", hint)


def takes_instruction(folder: Path) -> bool:
    """Returns whether a reranker may take an instruction: it has a prompt or a chat template, by its files.

    Loading it can still raise `no_instruction`, for a template that ignores the system message.
    """
    saved = _read(folder / "config_sentence_transformers.json")
    settings = [_read(folder / f"{file}.json") for file in ("tokenizer_config", "chat_template")]
    has_template = (folder / "chat_template.jinja").exists() or any(
        one.get("chat_template") for one in settings
    )
    return has_template or any((saved.get("prompts") or {}).values())


def no_instruction(name: str) -> ModelError:
    """Returns the error of a reranker that takes no instruction."""
    return ModelError(
        f"{name} takes no instruction: it has no prompt, and no chat template with a system message",
        "leave the instruction out, or name a reranker that takes one",
    )


def require_one_score(name: str, folder: Path) -> None:
    """Raises ModelError for a classifier of several labels, such as for entailment, by its configuration."""
    scores = _scores(folder)
    if scores != 1:
        raise ModelError(
            f"{name} gives {scores} scores per pair; a reranker gives one",
            "name a cross-encoder with num_labels = 1, or train one: "
            "miner train-reranker STORE OUT --base bundled",
        )


def _scores(folder: Path) -> int:
    """Returns the number of scores per pair: of a last Dense layer, or of the transformer's head."""
    for module in reversed(modules_of(folder)):
        config = _read(folder / module.folder / "config.json")
        if module.name == "Dense" and config.get("module_output_name") == "scores":
            return int(config.get("out_features") or 1)
        if module.name == "Transformer" and _architecture(folder / module.folder).endswith(
            "ForSequenceClassification"
        ):
            labels = config.get("id2label")
            # transformers saves neither if there are two labels, its default.
            return len(labels) if isinstance(labels, dict) else int(config.get("num_labels") or 2)
    return 1


def _architecture(folder: Path) -> str:
    names = _read(folder / "config.json").get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _read(file: Path, default: Any = None) -> Any:
    """Returns the content of a JSON file; `default` (an empty object) if it is missing or of another type."""
    empty: Any = {} if default is None else default
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return empty
    return content if isinstance(content, type(empty)) else empty
