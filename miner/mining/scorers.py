"""Opening the scorers of a run: BM25, imported candidates, given vectors, encoders and rerankers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.collection.collection import Collection
from miner.engine.progress import Progress
from miner.errors import UsageError, counted, numbers
from miner.mining.by_encoder import encoder_settings
from miner.mining.config import MiningConfig, require_default
from miner.models.loading import AnyReranker, instruction_refused, open_reranker, takes_instruction
from miner.models.names import file_name, scorer_name, unique_name
from miner.models.vector_cache import note_truncated
from miner.ranges import DEPTH
from miner.reporting.tables import percent
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import DenseConfig
from miner.retrieval.dense import Dense
from miner.retrieval.encoders import encoder_retriever, kind_of
from miner.retrieval.imported import Imported
from miner.retrieval.multi_vector import MultiVector
from miner.retrieval.search import Retriever
from miner.retrieval.sparse import Sparse
from miner.retrieval.vectors import GivenVectors
from miner.sources.candidates import read_candidates
from miner.sources.vectors import read_vectors
from miner.store.database import Database
from miner.store.pending import take_in_model
from miner.store.scorers import BM25, DENSE, MULTI_VECTOR, Scorer
from miner.store.tables import RERANKER
from miner.text import fingerprint

AnyEncoderRetriever = Dense | Sparse | MultiVector


@dataclass(frozen=True)
class Scorers:
    """The scorers of a run, opened: retrievers, then rerankers."""

    retrievers: tuple[Retriever, ...]
    rerankers: tuple[AnyReranker, ...]

    @property
    def encoders(self) -> list[AnyEncoderRetriever]:
        """The retrievers that are encoders."""
        return [one for one in self.retrievers if isinstance(one, Dense | Sparse | MultiVector)]

    @property
    def loaded(self) -> list[tuple[str, Any]]:
        """The models in use, each with its role: `encoder` or `reranker`."""
        encoders = [("encoder", one.encoder) for one in self.encoders]
        return [*encoders, *(("reranker", one) for one in self.rerankers)]

    def as_stored(self) -> tuple[Scorer, ...]:
        """Returns the scorers as a run stores them."""
        found: list[Scorer] = []
        for retriever in self.retrievers:
            found.append(Scorer(len(found), retriever.name, retriever.kind, _identity(retriever)))
        for reranker in self.rerankers:
            name = unique_name(scorer_name(reranker.name), [one.name for one in found])
            found.append(Scorer(len(found), name, RERANKER, reranker.fingerprint))
        return tuple(found)

    def note_devices(self, store: Database, progress: Progress) -> None:
        """Reports the precision and device of each model."""
        for kind, model in self.loaded:
            take_in_model(store, Path(model.name))
            progress.note(f"{kind} {model.name} computes in {model.dtype} on {model.device}")

    @property
    def longest(self) -> dict[str, int]:
        """The most candidates of one query in each imported file, by the scorer's name."""
        return {one.name: one.longest for one in self.retrievers if isinstance(one, Imported)}

    def note_unread(self, config: MiningConfig, progress: Progress) -> None:
        """Reports the candidates of imported files that are below the depth."""
        for name, longest in self.longest.items():
            if longest > config.depth:
                deepest = min(longest, int(DEPTH.high))
                progress.note(
                    f"candidates of {name}: up to {longest - config.depth:,} of {longest:,} per query are "
                    f"below --depth {config.depth} and not read; --depth {deepest} takes "
                    f"{'all' if deepest == longest else 'more'}"
                )

    def note_texts(self, config: MiningConfig, progress: Progress) -> None:
        """Reports texts that are cut or without a vector, and what an approximate index misses."""
        for encoder in self.encoders:
            note_truncated(encoder.encoder.name, encoder.truncated, progress)
        for retriever in self.retrievers:
            if isinstance(retriever, Dense | Sparse | MultiVector):
                _note_gaps(f"{retriever.encoder.name} has", retriever.gaps(), progress)
            elif isinstance(retriever, GivenVectors):
                _note_gaps(f"the folder {retriever.name} has", retriever.gaps(), progress)
            if config.index != "Flat" and isinstance(retriever, Dense | GivenVectors):
                recall = percent(retriever.recall(config.depth))
                of = f", of {retriever.name}" if len(self.retrievers) > 2 else ""
                progress.note(f"{config.index} finds {recall} of the documents that Flat finds{of}")

    def note_pairs(self, progress: Progress) -> None:
        """Reports the pairs of which the rerankers read only the beginning."""
        for reranker in self.rerankers:
            if reranker.truncated:
                longer = counted(reranker.truncated, "pair is", "pairs are")
                progress.note(f"{longer} longer than {reranker.name} reads: only the beginning is scored")


def _identity(retriever: Retriever) -> str | None:
    """Returns the fingerprint of an encoder, or of what was given; None for BM25."""
    if isinstance(retriever, Dense | Sparse | MultiVector):
        return retriever.encoder.fingerprint
    return None if isinstance(retriever, Bm25) else fingerprint(dict(retriever.inputs()))


def open_scorers(
    store: Database, collection: Collection, config: MiningConfig, workers: int | None, progress: Progress
) -> Scorers:
    """Returns the scorers that a configuration names.

    Raises UsageError if none finds candidates, ModelError for a model and InputError for a file that cannot
    be used.
    """
    names = retriever_names(config)
    encoders = encoder_settings(config, names[len(names) - len(config.encoder) :], progress)
    _require_used(config, encoders)
    free = iter(names[config.bm25 :])
    retrievers: list[Retriever] = []
    if config.bm25:
        kept = store.indexes
        bm25 = Bm25(collection, config.bm25_config, folder=kept, workers=workers, progress=progress)
        retrievers.append(bm25)
    for file in config.candidates:
        found = read_candidates(file)
        retrievers.append(Imported(collection, found, name=next(free), progress=progress))
    for folder in config.vectors:
        given = read_vectors(Path(folder))
        retrievers.append(
            GivenVectors(collection, given, name=next(free), index=config.index, progress=progress)
        )
    for settings in encoders:
        retrievers.append(
            encoder_retriever(
                store, collection, settings, name=next(free), workers=workers, progress=progress
            )
        )
    if not any(one.proposes for one in retrievers):
        raise UsageError(
            f"{retrievers[0].name} scores the candidates of other retrievers in a collection of this size",
            "leave BM25 on, or add an encoder of another kind",
        )
    return Scorers(tuple(retrievers), tuple(_rerankers(config, progress)))


def retriever_names(config: MiningConfig) -> list[str]:
    """Returns the name in the run of each retriever, in order: BM25, candidates, vectors, encoders."""
    names: list[str] = []
    own = (*map(file_name, (*config.candidates, *config.vectors)), *map(scorer_name, config.encoder))
    for name in (*((BM25,) if config.bm25 else ()), *own):
        names.append(unique_name(name, names))
    return names


def _require_used(config: MiningConfig, encoders: Sequence[DenseConfig]) -> None:
    """Raises UsageError for a setting that is for another kind of encoder than those that are named."""
    if (config.token_dtype, config.index) == (DenseConfig.token_dtype, DenseConfig.index):
        return
    kinds = {kind_of(one.encoder, one.revision) for one in encoders}
    if MULTI_VECTOR not in kinds:
        require_default(config, ["token_dtype"], "a multi-vector encoder")
    if DENSE not in kinds and not config.vectors:
        require_default(config, ["index"], "a dense encoder or vectors")


def _rerankers(config: MiningConfig, progress: Progress) -> Iterator[AnyReranker]:
    """Yields the rerankers; those that take an instruction have it."""
    instructed = [name for name in config.reranker if takes_instruction(name, config.reranker_revision)]
    if config.instruction is not None and not instructed:
        raise instruction_refused(config.reranker[-1])
    for name in config.reranker:
        yield open_reranker(
            name,
            revision=config.reranker_revision,
            dtype=config.dtype,
            instruction=config.instruction if name in instructed else None,
            progress=progress,
        )


def _note_gaps(what: str, gaps: Mapping[str, int], progress: Progress) -> None:
    if without := numbers(document=gaps.get("documents", 0), query=gaps.get("queries", 0)):
        progress.note(f"warning: {what} no vector for {without}: its search ignores these texts")
