"""Evaluating a model on a split of a store: the task, the kind of model, cached vectors, warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, counted, near
from miner.evaluation.labels import label_task
from miner.evaluation.reranking import rerank, reranking_task
from miner.evaluation.result import TASKS, Encode, Evaluation
from miner.evaluation.retrieval import retrieval_task
from miner.evaluation.similarity import similarity_task
from miner.models.cached_encoder import CachedEncoder
from miner.models.loading import AnyEncoder, AnyReranker, names_reranker, open_encoder, open_reranker
from miner.models.similarity import COSINE
from miner.ranges import COUNT, DEPTH, SEED, check_fields, known_keywords, within
from miner.store.corpus import require_judgments, split_facts
from miner.store.database import Database
from miner.store.models import seen_positives
from miner.store.rerank_scores import known_scores

AUTO = "auto"
_GRADES = 3
"""So many distinct relevances or more, one of them 0 or less or not whole, are similarity scores."""

_PER_QUERY = 2
"""Similarity pairs per query at most; a query whose pool of documents was graded has more."""

Model = AnyEncoder | AnyReranker


@known_keywords
@dataclass(frozen=True)
class EvaluationConfig:
    """What to measure, and which other models to compare with. Raises UsageError for invalid values."""

    split: str = "test"
    task: str = AUTO
    """One of TASKS; `auto` detects it from the model and the judgments of the split."""
    against: tuple[str, ...] = ()
    """Names of other models to measure on the same queries."""
    queries: int | None = within(None, COUNT)
    """How many queries to measure, drawn with the seed; None: all."""
    depth: int = within(100, DEPTH)
    """Reranking: how many of BM25's candidates per query are reranked."""
    seed: int = within(13, SEED)

    def __post_init__(self) -> None:
        check_fields(self)
        known = (AUTO, *TASKS)
        if self.task not in known:
            raise UsageError(
                f"unknown task '{self.task}'{near(self.task, known)}", f"choose one of {', '.join(known)}"
            )


def evaluate(
    store: Database, model: str, config: EvaluationConfig | None = None, progress: Progress = SILENT
) -> list[Evaluation]:
    """Measures a model and those of `config.against` on one split of a store.

    Returns one `Evaluation` per model, `model` first. Vectors are cached beside the store and rerankers'
    scores in it, so a second evaluation runs no model. Raises ModelError and UsageError.
    """
    settings = config or EvaluationConfig()
    models = open_models((model, *settings.against), settings.task, progress)
    return measure(store, models, settings, progress)


def open_models(names: Sequence[str], task: str, progress: Progress = SILENT) -> list[Model]:
    """Returns the models of these names, all of them encoders or all of them rerankers.

    Notes models that are the same as the first. Raises UsageError if they are of both kinds or do not fit the
    task, and ModelError if a model does not exist.
    """
    kinds = [names_reranker(name) if task == AUTO else task == "reranking" for name in names]
    for name, reranks in zip(names, kinds, strict=True):
        if task not in (AUTO, "reranking") and names_reranker(name):
            raise UsageError(
                f"{name} is a reranker: it has no vectors for the task {task}", "use --set task=reranking"
            )
        if reranks != kinds[0]:
            one, other = (names[0], name) if kinds[0] else (name, names[0])
            raise UsageError(
                f"{one} is a reranker and {other} an encoder: their measures are not comparable",
                "evaluate them one at a time, or name models of one kind",
            )
    models: list[Model] = [
        open_reranker(name, progress=progress) if kinds[0] else open_encoder(name, progress=progress)
        for name in names
    ]
    for model in models[1:]:
        if model.fingerprint == models[0].fingerprint:
            same = "the same model" if model.name == models[0].name else f"the same model as {models[0].name}"
            progress.note(f"{model.name} of --against is {same}: all differences are 0")
    return models


def measure(
    store: Database, models: Sequence[Model], config: EvaluationConfig, progress: Progress = SILENT
) -> list[Evaluation]:
    """Returns one `Evaluation` per model, all on the same queries.

    Notes positives that a model was trained on, truncated texts and `warnings`. Raises UsageError if the
    split lacks what the task needs.
    """
    fingerprints = [model.fingerprint for model in models]
    rerankers = [model for model in models if isinstance(model, AnyReranker)]
    with store.snapshot():
        seen = [seen_positives(store, one, config.split) for one in fingerprints]
        if rerankers:
            known = [known_scores(store, one) for one in fingerprints]
            require_judgments(store, config.split)
            candidates = reranking_task(store, config.split, config.depth, config.queries, config.seed)
        else:
            task = encoder_task(store, config)
    store.release()  # everything is read
    for model, number in zip(models, seen, strict=True):
        if number:
            progress.note(
                f"{model.name} was trained on {number:,} of the positives of split '{config.split}'"
            )
    if rerankers:
        pairs = zip(rerankers, known, strict=True)
        results = [rerank(store, model, candidates, scores, progress) for model, scores in pairs]
    else:
        encoders = [
            CachedEncoder(store.vectors, model, progress=progress)
            for model in models
            if isinstance(model, AnyEncoder)
        ]
        results = [task.measure(encode, encode.similarity) for encode in encoders]
        for encode in encoders:
            encode.note_truncated()
    for model, result in zip(models, results, strict=True):
        for warning in warnings(model.name, result):
            progress.note(f"warning: {warning}")
    return results


def warnings(name: str, result: Evaluation) -> list[str]:
    """Returns reasons not to trust the measures of the model `name`, one sentence each."""
    sentences = [f"{name} {_unscored(result)}"] if result.unscored else []
    if result.constant:
        sentences.append(f"{name} {result.constant}, so its measures are meaningless")
    return sentences


def _unscored(result: Evaluation) -> str:
    """Returns what a model has no vector or score for, and how that is counted."""
    totals = {
        "queries": f"of {counted(len(result.ids), 'query', 'queries')} (counted as 0)",
        "documents": f"of {counted(result.documents, 'document')} (never found)",
        "pairs": f"of {counted(len(result.ids), 'pair')} (left out)",
    }
    parts = [
        f"{number:,} {totals[name]}" if name in totals else f"{counted(number, 'candidate')} (not ranked)"
        for name, number in result.unscored.items()
    ]
    return f"has no finite {'score' if result.task == 'reranking' else 'vector'} for {' and '.join(parts)}"


class EncoderTask(Protocol):
    """A task for encoders, read from its store."""

    headline: ClassVar[str]
    """The name of the measure that represents the task: `Evaluation.headline` of its result."""

    @property
    def ids(self) -> tuple[str, ...]:
        """`Evaluation.ids` of its result."""
        ...

    def measure(self, encode: Encode, similarity: str = COSINE) -> Evaluation:
        """Returns the measures of the vectors of `encode`, compared by one of `SIMILARITIES`."""
        ...


def encoder_task(store: Database, config: EvaluationConfig) -> EncoderTask:
    """Reads the task of a split, to measure any number of encoders on it.

    The store may be closed afterwards. Raises UsageError if the split lacks what the task needs.
    """
    return _TASKS[task_of_split(store, config)](store, config.split, config.queries, config.seed)


_TASKS: dict[str, Callable[[Database, str, int | None, int], EncoderTask]] = {
    "retrieval": retrieval_task,
    "similarity": similarity_task,
    "labels": label_task,
}


def task_of_split(store: Database, config: EvaluationConfig) -> str:
    """Returns `config.task`, or for `auto` the task that the judgments of the split fit.

    That is `labels` if every query has a label; `similarity` if there are three distinct relevances or more,
    one of them 0 or less or not a whole number, and at most two pairs per query; else `retrieval`.
    Raises UsageError if the split has no judgments.
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
