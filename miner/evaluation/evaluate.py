"""From a model's name to its measures: which task it is, which kind of model, cached vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, counted, near
from miner.evaluation.labels import label_task
from miner.evaluation.reranking import rerank, reranking_task
from miner.evaluation.result import TASKS, Encode, Evaluation, Vectors
from miner.evaluation.retrieval import retrieval_task
from miner.evaluation.similarity import similarity_task
from miner.models.encoder import Encoder
from miner.models.kinds import is_reranker
from miner.models.names import resolve
from miner.models.reranker import Reranker
from miner.models.similarity import COSINE
from miner.models.vectors import VectorCache, note_truncated, vectors_of
from miner.ranges import COUNT, DEPTH, SEED, check_fields, within
from miner.store.corpus import require_judgments, split_facts
from miner.store.database import Store
from miner.store.evidence import known_scores
from miner.store.models import seen_positives

AUTO = "auto"
_GRADES = 3
"""From so many distinct relevances on, one of them 0 or less or not whole, pairs are graded, not judged."""

_PER_QUERY = 2
"""Graded pairs stand alone; a pool of documents that was graded for a query has more than so many."""

Model = Encoder | Reranker


@dataclass(frozen=True)
class EvaluationConfig:
    """What to measure, and against whom. Raises UsageError for values that make no sense."""

    split: str = "test"
    task: str = AUTO
    """One of TASKS; `auto` looks at the split and at the model."""
    against: tuple[str, ...] = ()
    """Names of other models to measure on the same."""
    queries: int | None = within(None, COUNT)
    """Measure only so many queries, drawn with the seed; None: all."""
    depth: int = within(100, DEPTH)
    """Reranking: BM25's candidates per query."""
    seed: int = within(13, SEED)

    def __post_init__(self) -> None:
        known = (AUTO, *TASKS)
        if self.task not in known:
            raise UsageError(
                f"unknown task '{self.task}'{near(self.task, known)}", f"choose one of {', '.join(known)}"
            )
        check_fields(self)


def evaluate(
    store: Store, model: str, config: EvaluationConfig | None = None, progress: Progress = SILENT
) -> list[Evaluation]:
    """Measures a model, and then those of `config.against`, on one split of a store.

    Returns one `Evaluation` per model, in that order. Vectors are cached beside the store and
    rerankers' scores in it, so that a second evaluation runs no model. Raises ModelError and
    UsageError.
    """
    settings = config or EvaluationConfig()
    return measure(store, open_models((model, *settings.against), settings.task), settings, progress)


def open_models(names: Sequence[str], task: str) -> list[Model]:
    """Returns the models of these names, all of them encoders or all of them rerankers.

    Raises UsageError when they are of both kinds or do not fit the task, and ModelError when there
    is no such model.
    """
    kinds = [is_reranker(resolve(name).path) if task == AUTO else task == "reranking" for name in names]
    for name, reranks in zip(names, kinds, strict=True):
        if task not in (AUTO, "reranking") and is_reranker(resolve(name).path):
            raise UsageError(
                f"{name} is a reranker: it has no vectors for the task {task}", "use --task reranking"
            )
        if reranks != kinds[0]:
            one, other = (names[0], name) if kinds[0] else (name, names[0])
            raise UsageError(
                f"{one} is a reranker and {other} an encoder: their measures do not compare",
                "evaluate them one at a time, or name models of one kind",
            )
    return [Reranker(name) if kinds[0] else Encoder(name) for name in names]


def measure(
    store: Store, models: Sequence[Model], config: EvaluationConfig, progress: Progress = SILENT
) -> list[Evaluation]:
    """Returns one `Evaluation` per model, all on the same queries.

    Raises UsageError when the split does not hold what the task needs.
    """
    fingerprints = [model.fingerprint for model in models]
    rerankers = [model for model in models if isinstance(model, Reranker)]
    with store.snapshot():
        seen = [seen_positives(store, one, config.split) for one in fingerprints]
        if rerankers:
            known = [known_scores(store, one) for one in fingerprints]
            require_judgments(store, config.split)
            candidates = reranking_task(store, config.split, config.depth, config.queries, config.seed)
        else:
            task = encoder_task(store, config)
    store.release()  # all is read
    for model, number in zip(models, seen, strict=True):
        if number:
            progress.note(
                f"{model.name} was trained on {number:,} of the positives of split '{config.split}'"
            )
    if rerankers:
        pairs = zip(rerankers, known, strict=True)
        found = [rerank(store, model, candidates, scores, progress) for model, scores in pairs]
    else:
        encoders = [CachedEncoder(store, model, progress) for model in models if isinstance(model, Encoder)]
        found = [task.measure(encode, encode.similarity) for encode in encoders]
        for encode in encoders:
            encode.note_truncated()
    for model, one in zip(models, found, strict=True):
        for warning in warnings(model.name, one):
            progress.note(f"warning: {warning}")
    return found


def warnings(name: str, measured: Evaluation) -> list[str]:
    """Returns why the measures of the model `name` may not be what they seem, a sentence each."""
    told = [f"{name} {_unscored(measured)}"] if measured.unscored else []
    if measured.constant:
        told.append(f"{name} {measured.constant}, so its measures are meaningless")
    return told


def _unscored(measured: Evaluation) -> str:
    """What a model has no vector or score for, and what that counts."""
    queries = counted(len(measured.ids), "query", "queries")
    told = {
        "queries": f"of {queries} (counted as 0)",
        "documents": f"of {counted(measured.documents, 'document')} (never found)",
        "pairs": f"of {counted(len(measured.ids), 'pair')} (left out)",
    }
    parts = [
        f"{number:,} {told[name]}" if name in told else f"{counted(number, 'candidate')} (not ranked)"
        for name, number in measured.unscored.items()
    ]
    return f"has no finite {'score' if measured.task == 'reranking' else 'vector'} for {' and '.join(parts)}"


class EncoderTask(Protocol):
    """What a split asks of an encoder, read into memory."""

    headline: ClassVar[str]
    """The measure that stands for the task: `Evaluation.headline` of what it returns."""

    def measure(self, encode: Encode, similarity: str = COSINE) -> Evaluation:
        """Returns what vectors of `encode` reach, compared by one of `SIMILARITIES`."""
        ...


def encoder_task(store: Store, config: EvaluationConfig) -> EncoderTask:
    """Reads the task of a split for encoders, which may then be measured as often as wanted.

    The store may be closed meanwhile. Raises UsageError when the split does not hold what the
    task needs.
    """
    return _TASKS[task_of_split(store, config)](store, config.split, config.queries, config.seed)


_TASKS: dict[str, Callable[[Store, str, int | None, int], EncoderTask]] = {
    "retrieval": retrieval_task,
    "similarity": similarity_task,
    "labels": label_task,
}


def task_of_split(store: Store, config: EvaluationConfig) -> str:
    """Returns the task that was asked for, or, for `auto`, the one that the split's judgments are for.

    Labels if all its queries have one; similarity if there are three distinct relevances or more,
    one of them 0 or less or not a whole number, and at most two pairs per query; else retrieval.
    Raises UsageError when nothing is judged.
    """
    require_judgments(store, config.split)
    if config.task != AUTO:
        return config.task
    facts = split_facts(store, config.split)
    if facts.labelled == facts.queries:
        return "labels"
    scale = facts.grades >= _GRADES and (facts.least <= 0 or facts.fractions)
    alone = facts.judgments <= _PER_QUERY * facts.queries
    return "similarity" if scale and alone else "retrieval"


class CachedEncoder:
    """An encoder as a function of texts and role, with its vectors cached beside the store.

    Where none can be added, as beside a store that is shared to be read, those that are missing there
    are computed each time, and a note says so.
    """

    def __init__(self, store: Store, encoder: Encoder, progress: Progress = SILENT) -> None:
        self._encoder, self._progress = encoder, progress
        self.similarity = encoder.similarity
        """How its vectors are to be compared."""
        models = dict.fromkeys(encoder.for_role(role).fingerprint for role in ("query", "document"))
        self._caches = {model: VectorCache(store.vectors, model, progress) for model in models}

    def __call__(self, texts: Sequence[str], role: str) -> Vectors:
        """Returns the vectors of the texts, by the model's own prompt and route for that role."""
        encoder = self._encoder.for_role(role)
        cache = self._caches[encoder.fingerprint]
        return vectors_of(cache, encoder, texts, encoder.prompts[role], self._progress)

    def note_truncated(self) -> None:
        """Says how many distinct texts so far are longer than the model reads."""
        truncated = sum(cache.truncated for cache in self._caches.values())
        note_truncated(self._encoder.name, truncated, self._progress)
