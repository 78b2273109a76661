"""The parts of a loaded encoder: the modules for each role, and the words that a static table knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from miner.errors import ModelError
from miner.models.kinds import ANOTHER

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Flags = npt.NDArray[np.bool_]


def routed(model: SentenceTransformer, role: str, name: str) -> SentenceTransformer:
    """Returns the part of a model with routers for one role, `query` or `document`; the parts share weights.

    It takes the route that `SentenceTransformer.encode(texts, task=role)` takes for texts. Raises ModelError
    if a router has no route for the role.
    """
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        modules=route_modules(model, role, name), device=str(model.device), truncate_dim=model.truncate_dim
    ).eval()


def route_modules(model: Iterable[Any], role: str, name: str) -> list[Any]:
    """Returns the modules that the text of a role goes through; raises ModelError if there is no route."""
    return list(_flat(list(model), role, name))


def _flat(modules: Sequence[Any], role: str, name: str) -> Iterator[Any]:
    from sentence_transformers.base.modules import Router

    for module in modules:
        if isinstance(module, Router):
            route = _route(module, role)
            if route is None:
                raise ModelError(
                    f"{name} has no route for the text of a {role}: its routes are "
                    f"{', '.join(module.sub_modules)}",
                    ANOTHER,
                )
            yield from _flat(list(module.sub_modules[route].children()), role, name)
        else:
            yield module


def _route(router: Any, role: str) -> str | None:
    """Returns the route of `sentence_transformers.base.modules.Router` for the text of a role."""
    for key in ((role, "text"), (role, None), (None, "text"), (None, None)):
        if key in router.route_mappings:
            return str(router.route_mappings[key])
    return next((name for name in (role, "text") if name in router.sub_modules), None)


def one_vector_per_text(model: SentenceTransformer, name: str) -> None:
    """Raises ModelError unless the model reads texts and gives one vector for each."""
    import torch

    if not model.supports("text"):
        raise ModelError(f"{name} does not read texts, only {', '.join(map(str, model.modalities))}", ANOTHER)
    try:
        with torch.inference_mode():
            features = model.preprocess(["a text", "another"])
            features = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in features.items()}
            shape = tuple(model(features)["sentence_embedding"].shape)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no module makes {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{name} does not give one vector per text: {reason}", ANOTHER) from error
    if len(shape) != 2 or shape[0] != 2:
        raise ModelError(
            f"{name} does not give one vector per text: two texts have the shape {shape}", ANOTHER
        )


def known_words(first: Any) -> Callable[[Sequence[str]], Flags] | None:
    """Returns a function for which texts have a word that a static table knows; None for any other model.

    `first` is the model's first module: StaticEmbedding, WordEmbeddings or BoW. Texts of unknown words all
    get the same vector, the zero vector or that of the unknown token, which carries no information.
    """
    from sentence_transformers.sentence_transformer.modules import BoW, StaticEmbedding, WordEmbeddings

    if isinstance(first, StaticEmbedding):
        unknown = unknown_token(first.tokenizer)

        def known(texts: Sequence[str]) -> Flags:
            """Returns whether any token of each text is known."""
            encodings = first.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return np.array([any(token != unknown for token in one.ids) for one in encodings], dtype=np.bool_)

        return known
    if isinstance(first, WordEmbeddings | BoW):
        words: Any = first.tokenizer
        special = set(getattr(getattr(words, "tokenizer", None), "all_special_ids", ()))
        return lambda texts: np.array(
            [not special.issuperset(words.tokenize(text)) for text in texts], dtype=np.bool_
        )
    return None


def unknown_token(tokenizer: Any) -> int | None:
    """Returns the id of a fast tokenizer's unknown token; None if it has none."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    unknown = tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None
    return None if unknown is None else int(unknown)
