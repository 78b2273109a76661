"""The kind of a model by its files: an encoder and its settings, a reranker, or something else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miner.errors import ModelError
from miner.models.names import ModelFolder
from miner.models.similarity import COSINE, DOT, SIMILARITIES
from miner.models.weights import FOLDS_FILE, ROUTERS, modules_of
from miner.store.scorers import DENSE, MULTI_VECTOR, SPARSE

_HEADS = ("ForSequenceClassification", "ForCausalLM", "ForConditionalGeneration")
"""Architectures that score a pair; the others are encoders without a head."""


ANOTHER = "name a bi-encoder, such as sentence-transformers/all-MiniLM-L6-v2 or bundled"
"""The hint for a model that is not a bi-encoder."""
_NAMES = {
    DENSE: "a bi-encoder",
    SPARSE: "a sparse encoder (such as SPLADE)",
    MULTI_VECTOR: "a multi-vector encoder (such as ColBERT)",
}
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
_STANFORD = "HF_ColBERT"
_PREFIXES = {"query": "query_prefix", "document": "document_prefix"}
"""The settings of PyLate up to version 3 that are put before a prompt, by role."""
_MARKERS = {"query": ("query_token_id", "[unused0]"), "document": ("doc_token_id", "[unused1]")}
"""The same settings of Stanford's ColBERT in `artifact.metadata`, and their defaults."""


def is_reranker(folder: Path) -> bool:
    """Returns whether a model scores pairs; for a bare transformer, by its architecture."""
    if (folder / FOLDS_FILE).exists():
        return True
    saved = _read(folder / "config_sentence_transformers.json")
    if "model_type" in saved or (folder / "modules.json").exists():
        return bool(saved.get("model_type") == "CrossEncoder")
    return _architecture(folder).endswith("ForSequenceClassification")


def encoder_kind(model: ModelFolder) -> str:
    """Returns the kind of an encoder by its files: `dense`, `sparse` or `multi-vector`.

    Raises ModelError for a model that is not an encoder, and for one whose files lack something without which
    sentence-transformers would add layers of random weights, or would load it as another kind of model.
    """
    if is_reranker(model.path):
        raise ModelError(
            f"{model.name} is a reranker (a cross-encoder): it scores pairs and has no vectors", ANOTHER
        )
    named = _settings(model.path).get("model_type")
    kind = _kind(model.path, named or "SentenceTransformer")
    if kind is None:
        raise ModelError(f"{model.name} is a {named}: miner does not know how to use it", ANOTHER)
    reason = _unusable(model.path, kind, named)
    if reason:
        raise ModelError(f"{model.name} is {_NAMES[kind]}: {reason}", _REPAIR)
    return kind


_REPAIR = "load it with the library that made it, then save it with save_pretrained of sentence-transformers"


def require_encoder(model: ModelFolder) -> None:
    """Raises ModelError unless a model is a dense encoder (bi-encoder), which has one vector per text."""
    require_kind(model, DENSE)


def require_kind(model: ModelFolder, kind: str) -> None:
    """Raises ModelError unless a model is an encoder of this kind."""
    found = encoder_kind(model)
    if found != kind:
        raise ModelError(
            f"{model.name} is {_NAMES[found]}: this needs {_NAMES[kind]}",
            ANOTHER if kind == DENSE else f"name {_NAMES[kind]}",
        )


def _kind(folder: Path, named: str) -> str | None:
    """Returns the kind of an encoder with the `model_type` named; None for an unknown type."""
    modules = {module.name for module in modules_of(folder)}
    if named == "SparseEncoder" or modules & _SPARSE:
        return SPARSE
    if named in ("MultiVectorEncoder", "ColBERT") or modules & _MULTI_VECTOR or _is_late(folder):
        return MULTI_VECTOR
    return DENSE if named == "SentenceTransformer" else None


def _unusable(folder: Path, kind: str, named: str | None) -> str:
    """Returns why sentence-transformers 6.2 would not load the saved encoder as it is; empty if it would.

    It follows `BaseModel._load_modules` and the classes' `_load_default_modules`, `_load_converted_modules`.
    """
    listed = (folder / "modules.json").exists()
    if kind == SPARSE:
        if not listed or named != "SparseEncoder":
            return "its files do not name all its layers (modules.json and model_type SparseEncoder)"
        outside = [m.folder for m in modules_of(folder) if "path" in _read(folder / m.folder / "config.json")]
        return f"its weights are in another file, which {outside[0]}/config.json names" if outside else ""
    if kind == DENSE or (listed and named in ("MultiVectorEncoder", "ColBERT")):
        return ""
    architecture = _architecture(folder)
    if architecture.endswith("ForRetrieval"):
        return "its documents are images"
    if listed:
        old = _PREFIXES["query"] in _settings(folder) and any(m.name == "Dense" for m in modules_of(folder))
        return "" if old else "its files do not name its settings (model_type and prefixes)"
    return "" if architecture == _STANFORD else f"its config.json does not name the architecture {_STANFORD}"


def _settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of a model of sentence-transformers; empty for any other."""
    settings: dict[str, Any] = _read(folder / "config_sentence_transformers.json")
    return settings


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


def role_lengths(folder: Path) -> dict[str, int]:
    """Returns the most tokens that a dense model reads of a text, for each role with a limit of its own.

    These are the settings `query_length` and `document_length` of sentence-transformers 6.2.
    """
    named = {"query": "query_length", "document": "document_length"}
    settings: dict[str, Any] = {}
    for module in modules_of(folder):
        for file in sorted((folder / module.folder).glob("sentence_*_config.json")):
            settings |= {name: value for name, value in _read(file).items() if value is not None}
    return {role: int(settings[name]) for role, name in named.items() if name in settings}


def own_similarity(model: ModelFolder, truncated: bool = False) -> str:
    """Returns the similarity that a dense model's files name; cosine if they name none.

    The dot product of a model that normalises its vectors is their cosine, unless the vectors are truncated
    afterwards. Raises ModelError for a name that is not in `SIMILARITIES`.
    """
    settings = _settings(model.path)
    named = settings.get("similarity_fn_name") or COSINE
    if named not in SIMILARITIES:
        raise ModelError(
            f"{model.name} compares vectors by '{named}' (similarity_fn_name), which miner does not support",
            f"name a model that uses one of {', '.join(SIMILARITIES)}",
        )
    *_, last = modules_of(model.path)
    whole = not truncated and settings.get("truncate_dim") is None
    return COSINE if named == DOT and last.name == "Normalize" and whole else str(named)


def own_scoring(folder: Path, known: Sequence[str]) -> str:
    """Returns the similarity that a sparse or multi-vector model's files name, if it is one of `known`.

    Otherwise it is the first of them, as in sentence-transformers.
    """
    named = _settings(folder).get("similarity_fn_name")
    return str(named) if named in known else known[0]


def own_prompts(folder: Path) -> dict[str, str]:
    """Returns a model's own prompts for the roles `query` and `document`; empty if it has none.

    Models name the second role document, passage or corpus. `default_prompt_name` is ignored, as in
    `encode_query` and `encode_document` of sentence-transformers: it is for texts without a role. The markers
    of PyLate and of Stanford's ColBERT are part of the prompts.
    """
    settings = _settings(folder)
    own = settings.get("prompts") or {}
    document = next(
        (own[name] for name in ("document", "passage", "corpus") if own.get(name) is not None), ""
    )
    prompts = {"query": own.get("query") or "", "document": document}
    for role, name in _PREFIXES.items():
        if name in settings:
            prefix = settings[name] or ""
            prompts[role] = prefix + prompts[role].removeprefix(prefix)
    if not (folder / "modules.json").exists() and _architecture(folder) == _STANFORD:
        metadata = _read(folder / "artifact.metadata")
        prompts = {role: f"{metadata.get(key) or other} " for role, (key, other) in _MARKERS.items()}
    return prompts


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
