"""Models in the workers of a cluster: the calls and the results of the models in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

from miner.engine.cluster import Cluster, current, fetched
from miner.engine.progress import SILENT, Progress, Silent
from miner.errors import ModelError
from miner.models.encoder import Encoder
from miner.models.library_encoder import LibraryEncoder
from miner.models.names import BUNDLED
from miner.models.reranker import Reranker, Scores
from miner.models.weights import model_files


@dataclass(frozen=True)
class ModelOpener:
    """How a worker opens a model that this process has opened."""

    kind: type[Any]
    arguments: tuple[tuple[str, Any], ...]
    """Those that the model was opened with."""
    role: str
    """`query` or `document`; empty for a model without roles."""
    fingerprint: str
    threads: int
    """Threads of one call of PyTorch where the library computes a batch: its sums depend on them."""
    files: Any = field(default=None, compare=False)
    """Stands for the files of the model's folder (see `Cluster.put`); None: the worker's machine has them."""

    @classmethod
    def of(cls, model: Encoder | LibraryEncoder | Reranker) -> ModelOpener:
        """Returns the opener of a model. A folder is named by its whole path."""
        arguments = dict(model.arguments)
        folder = Path(arguments["name"])
        if arguments["name"] != BUNDLED and folder.exists():
            arguments["name"] = str(folder.absolute())
        role = "" if isinstance(model, Reranker) else model.role
        return cls(type(model), tuple(arguments.items()), role, model.fingerprint, torch_threads())

    @property
    def folder(self) -> Path | None:
        """The model's folder, if it is not named by a hub id."""
        name = Path(dict(self.arguments)["name"])
        return name if name.is_absolute() else None

    def open(self) -> LentModel:
        """Returns the model; raises OtherModelError if this machine has no such folder, or another model."""
        try:
            return LentModel(self._model(dict(self.arguments)), self.threads)
        except OtherModelError:
            if self.files is None:
                raise
        written = TemporaryDirectory(ignore_cleanup_errors=True)
        _write(fetched(self.files), Path(written.name))
        return LentModel(self._model(dict(self.arguments) | {"name": written.name}), self.threads, written)

    def _model(self, arguments: dict[str, Any]) -> Any:
        folder = Path(arguments["name"])
        if folder.is_absolute() and not folder.exists():
            raise OtherModelError(f"there is no folder {folder}")
        model = self.kind(**arguments)
        if self.role:
            model = model.for_role(self.role)
        if model.fingerprint != self.fingerprint:
            raise OtherModelError(
                f"{model.name} is another model there than on the machine that runs the command",
                "name a model by its hub id and revision, or see that all nodes have the same files",
            )
        return model


class Answer(NamedTuple):
    """What a model in a worker gives back."""

    result: Any
    truncated: int
    """Pairs that were longer than the reranker reads."""
    notes: Sequence[str]


class OtherModelError(ModelError):
    """The machine of a worker lacks the model."""


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name, _ in model_files(folder)}


class LentModel:
    """A model in a worker, and the folder of its files if they were sent."""

    def __init__(self, model: Any, threads: int, folder: TemporaryDirectory[str] | None = None) -> None:
        self._model, self._threads, self._folder = model, threads, folder

    def encoded(self, texts: Sequence[str], prompt: str) -> Answer:
        """Returns what the encoder's `encoded` returns."""
        notes = self._begun()
        return Answer(self._model.encoded(texts, prompt, progress=notes), 0, notes.found)

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Answer:
        """Returns what the reranker's `score` returns."""
        notes, before = self._begun(), self._model.truncated
        scores = self._model.score(queries, documents, progress=notes)
        return Answer(scores, self._model.truncated - before, notes.found)

    def _begun(self) -> _Notes:
        """Has PyTorch compute with the threads that it has in the process that asks."""
        import torch

        torch.set_num_threads(self._threads)
        return _Notes()


class _Notes(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def note(self, message: str) -> None:
        """Keeps a line."""
        self.found.append(message)


_COUNTING = Lock()


@cache
def torch_threads() -> int:
    """Returns the threads that PyTorch computes with in this process, where nothing sets them."""
    import torch

    return torch.get_num_threads()


def in_workers(model: object) -> bool:
    """Returns whether a cluster's workers compute with a model, if there is a cluster; not a served one."""
    return isinstance(model, Encoder | LibraryEncoder | Reranker)


def encoded_by(
    encoder: Any, texts: Sequence[str], prompt: str, *, workers: int | None, progress: Progress = SILENT
) -> Any:
    """Returns what `encoder.encoded` returns, computed by a worker of the cluster if there is one.

    A served encoder is asked by this process.
    """
    cluster = current()
    if cluster is None or not in_workers(encoder):
        return encoder.encoded(texts, prompt, workers=workers, progress=progress)
    return _noted(_answer(cluster, ModelOpener.of(encoder), "encoded", list(texts), prompt), progress).result


def scores_of(
    reranker: Any,
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Scores:
    """Returns what `reranker.score` returns, computed by a worker of the cluster if there is one.

    A served reranker is asked by this process.
    """
    cluster = current(progress)
    if cluster is None or not in_workers(reranker):
        result: Scores = reranker.score(queries, documents, workers=workers, progress=progress)
        return result
    answer = _answer(cluster, ModelOpener.of(reranker), "score", list(queries), list(documents))
    with _COUNTING:
        reranker.truncated += answer.truncated
    found: Scores = _noted(answer, progress).result
    return found


def _answer(cluster: Cluster, opener: ModelOpener, method: str, *arguments: Any) -> Answer:
    """Returns a model's answer. The files of a folder are sent if a worker's machine does not have them."""
    folder = opener.folder
    opener = replace(opener, files=cluster.kept.get(opener.fingerprint))
    try:
        answer: Answer = cluster.call(opener, method, *arguments)
        return answer
    except OtherModelError:
        if folder is None or not folder.is_dir() or opener.files is not None:
            raise
    files = cluster.put_once(opener.fingerprint, lambda: _read(folder))
    again: Answer = cluster.call(replace(opener, files=files), method, *arguments)
    return again


def _noted(answer: Answer, progress: Progress) -> Answer:
    for note in answer.notes:
        progress.note(note)
    return answer
