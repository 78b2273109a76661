"""Work on a whole store, as the command line has it: data in, copies, contamination, training, evaluation."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from miner import sources as reading
from miner.curation import contamination as contaminating
from miner.curation import dedup as deduplicating
from miner.curation import silver as judging
from miner.curation.contamination import ContaminationConfig, ContaminationReport
from miner.curation.dedup import DedupConfig, DedupReport
from miner.curation.silver import SilverReport
from miner.curation.silver_config import SilverConfig
from miner.door.arguments import (
    Reports,
    StoreLike,
    configured,
    divided,
    opened,
    path_of,
    require_order,
    require_writable,
)
from miner.engine.cluster import using
from miner.engine.progress import SILENT
from miner.engine.progress_bars import progress_for
from miner.evaluation import evaluate as evaluating
from miner.evaluation.evaluate import EvaluationConfig
from miner.evaluation.result import Evaluation
from miner.generation import generate as generating
from miner.generation.config import GenerationConfig
from miner.generation.generate import GenerationPlan, GenerationReport
from miner.mining import config as mining_config
from miner.mining.config import MiningConfig
from miner.sources import IngestReport, SourceConfig
from miner.store.select import Limits, select
from miner.store.silver import remove_silver
from miner.training.encoder_config import EncoderConfig
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker_config import RerankerConfig
from miner.workflows import train as training
from miner.workflows.bench_config import BenchConfig
from miner.workflows.train import Dev, TrainingRows
from miner.workflows.tune_config import TuneConfig

if TYPE_CHECKING:
    from miner.export.push import PushReport
    from miner.training.model_card import EncoderReport, PretrainReport, RerankerReport
    from miner.workflows.bench_result import BenchReport
    from miner.workflows.loop import LoopConfig, LoopReport
    from miner.workflows.tune import TuneReport

PathLike = str | os.PathLike[str]


def ingest(
    store: StoreLike,
    sources: Any,
    config: SourceConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> IngestReport:
    """Adds one source or several to a store, which is made if there is none; returns what was added.

    A source is what `miner ingest` takes (a file, a folder, `hf:NAME`, `python:NAME`), or a table: a
    datasets.Dataset, a pandas or Arrow table, a list of dicts, or a dict of such tables by split. Settings
    are those of SourceConfig. All sources are added or, if anything is wrong, none. Raises InputError,
    UsageError and StoreError.
    """
    require_order(store, sources, "ingest(store, sources)")
    chosen = configured(SourceConfig, config, settings)
    path = path_of(store)
    with progress_for(progress) as reports:
        return reading.ingest(path, sources, chosen, reports)


def dedup(
    store: StoreLike, config: DedupConfig | None = None, *, progress: Reports = None, **settings: Any
) -> DedupReport:
    """Finds copies among a store's documents and among its queries, and stores their clusters.

    Settings are those of DedupConfig. Raises UsageError and ModelError.
    """
    chosen = configured(DedupConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports) as found:
        return deduplicating.dedup(found, chosen, reports)


def cluster(address: str, *, work: str | None = None) -> AbstractContextManager[None]:
    """Returns a context in which models and searches run on a Ray cluster, at an address or `local`.

    The results are the same as without. `work` is the URL of a folder that all nodes can use; it keeps their
    shards of the documents. Raises ClusterError, at the first work, if there is no such cluster.
    """
    return using(address, work)


def contamination(
    store: StoreLike,
    evaluation: StoreLike,
    config: ContaminationConfig | None = None,
    *,
    remove: bool = False,
    out: PathLike | None = None,
    progress: Reports = None,
    **settings: Any,
) -> ContaminationReport:
    """Finds texts of the store `evaluation` that also occur in `store`, and stores the result there.

    `evaluation` may be the same store: then its splits are compared. `remove` deletes the matching texts,
    `out` receives one JSON line per match. Settings are those of ContaminationConfig. Raises UsageError if
    nothing is judged in the split.
    """
    chosen = configured(ContaminationConfig, config, settings)
    file = None if out is None else Path(out)
    with progress_for(progress) as reports, opened(store, reports) as own:
        if path_of(evaluation, read_only=True).resolve() == own.path.resolve():
            return contaminating.contamination(own, own, chosen, reports, remove=remove, out=file)
        with opened(evaluation, reports, read_only=True) as other:
            return contaminating.contamination(own, other, chosen, reports, remove=remove, out=file)


def silver(
    store: StoreLike,
    config: SilverConfig | None = None,
    *,
    training: RerankerConfig | None = None,
    workers: int | None = None,
    progress: Reports = None,
    **settings: Any,
) -> SilverReport:
    """Has a reranker judge pairs that nobody judged, and stores those with a high or a low score.

    `training` is how to train the reranker if none is named. Settings are those of SilverConfig. Raises
    UsageError if no query is left to judge for, ModelError for a reranker without probabilities.
    """
    chosen = configured(SilverConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports) as found:
        return judging.silver(found, chosen, training=training, workers=workers, progress=reports)


def undo_silver(store: StoreLike) -> int:
    """Removes all silver judgments from a store; returns how many."""
    with opened(store, SILENT) as found:
        return remove_silver(found)


def generate(
    store: StoreLike,
    model: str,
    config: GenerationConfig | None = None,
    *,
    workers: int | None = None,
    progress: Reports = None,
    **settings: Any,
) -> GenerationReport:
    """Has a language model write queries from a store's documents, and stores those that pass the filters.

    `model` is `URL#MODEL`. Settings are those of GenerationConfig, and of the MiningConfig in it for the
    search. The same call after a kill goes on. Raises UsageError for a store without documents, ModelError if
    the server does not answer.
    """
    chosen = configured(GenerationConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports) as found:
        return generating.generate(found, model, chosen, reports, workers=workers)


def plan_generation(
    store: StoreLike, model: str, config: GenerationConfig | None = None, **settings: Any
) -> GenerationPlan:
    """Returns how many requests and tokens `generate` would take, and the first request; sends nothing."""
    chosen = configured(GenerationConfig, config, settings)
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        return generating.plan(found, model, chosen)


def train(
    source: StoreLike,
    out: PathLike,
    config: EncoderConfig | None = None,
    rows: TrainingRows | None = None,
    *,
    dev: Dev | None = None,
    force: bool = False,
    progress: Reports = None,
    **settings: Any,
) -> EncoderReport:
    """Trains an encoder on a store, an export or a file, and writes it to the folder `out`.

    Settings are those of EncoderConfig and of TrainingRows, which says what to train on. `force` replaces a
    model in `out` that has other rows or settings. Raises UsageError, InputError and ModelError.
    """
    require_order(source, out, "train(source, out)")
    about_rows, others = divided(settings, TrainingRows)
    chosen = configured(EncoderConfig, config, others)
    which = configured(TrainingRows, rows, about_rows)
    with progress_for(progress) as reports:
        return training.train(
            path_of(source), Path(out), chosen, which, dev=dev, force=force, progress=reports
        )


def train_reranker(
    store: StoreLike,
    out: PathLike,
    config: RerankerConfig | None = None,
    *,
    force: bool = False,
    progress: Reports = None,
    **settings: Any,
) -> RerankerReport:
    """Trains a reranker on a store's judgments, and writes it to the folder `out`.

    Settings are those of RerankerConfig. Raises UsageError, ModelError and MinerError.
    """
    from miner.training import reranker

    require_order(store, out, "train_reranker(store, out)")
    chosen = configured(RerankerConfig, config, settings)
    require_writable(store)  # it is open to read until the end, when the training is recorded in it
    with progress_for(progress) as reports, opened(store, reports, read_only=True) as found:
        return reranker.train_reranker(found, Path(out), chosen, reports, force=force)


def pretrain(
    store: StoreLike,
    out: PathLike,
    config: PretrainConfig | None = None,
    *,
    force: bool = False,
    progress: Reports = None,
    **settings: Any,
) -> PretrainReport:
    """Adapts an encoder to a store's texts without labels, and writes it to the folder `out`.

    Settings are those of PretrainConfig. Raises UsageError, ModelError and MinerError.
    """
    from miner.training import tsdae

    require_order(store, out, "pretrain(store, out)")
    chosen = configured(PretrainConfig, config, settings)
    with progress_for(progress) as reports:
        return tsdae.pretrain(path_of(store, read_only=True), Path(out), chosen, reports, force=force)


def evaluate(
    store: StoreLike,
    model: PathLike,
    config: EvaluationConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> list[Evaluation]:
    """Measures a model, and those in `against`, on a split of a store: one result per model, in that order.

    `compare` returns how two results differ. Settings are those of EvaluationConfig. Raises ModelError and
    UsageError.
    """
    require_order(store, model, "evaluate(store, model)")
    chosen = configured(EvaluationConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports, read_only=True) as found:
        return evaluating.evaluate(found, str(model), chosen, reports)


def bench(
    store: StoreLike,
    out: PathLike | None = None,
    config: BenchConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> BenchReport:
    """Trains on easy and on hard negatives, several times each, and compares the models.

    Finished trainings are kept in `out`, by default a folder beside the store. Settings are those of
    BenchConfig, and of the EncoderConfig in it. Raises UsageError and MinerError.
    """
    from miner.workflows import bench as benching

    require_order(store, out, "bench(store, out)")
    chosen, path = configured(BenchConfig, config, settings), path_of(store, read_only=True)
    with progress_for(progress) as reports:
        folder = benching.default_out(path) if out is None else Path(out)
        return benching.bench(path, folder, chosen, reports)


def tune(
    store: StoreLike,
    work: PathLike | None = None,
    config: TuneConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> TuneReport:
    """Finds the negatives that train best by short trainings, measured on the dev split.

    Finished trainings are kept in `work`, by default a folder beside the store. Settings are those of
    TuneConfig, and of the EncoderConfig in it; `budget` may be a text such as `30m`. The report writes the
    choice with `write_recipe`. Raises UsageError, StoreError and MinerError.
    """
    from miner.workflows import tune as tuning

    require_order(store, work, "tune(store, work)")
    chosen, path = configured(TuneConfig, config, settings), path_of(store, read_only=True)
    with progress_for(progress) as reports:
        folder = tuning.default_work(path) if work is None else Path(work)
        return tuning.tune(path, folder, chosen, reports)


def loop(
    store: StoreLike,
    out: PathLike,
    config: LoopConfig | None = None,
    *,
    for_: str | None = None,
    progress: Reports = None,
    **settings: Any,
) -> LoopReport:
    """Mines, trains, and mines again with the new model, until the score on the dev split no longer rises.

    Models are written to the folder `out`. Settings are those of LoopConfig, and of the configurations in it;
    the bundled encoder mines the first round if none is named. `for_` names a preset, as in `mine`. Raises
    what `mine` and `train` raise.
    """
    from miner.workflows import loop as looping

    require_order(store, out, "loop(store, out)")
    if config is None:
        config = looping.LoopConfig(MiningConfig(encoder=("bundled",)), EncoderConfig())
    chosen = configured(looping.LoopConfig, config, settings, for_)
    with progress_for(progress) as reports:
        return looping.loop(path_of(store), Path(out), chosen, reports)


def push_export(folder: PathLike, repo: str, **settings: Any) -> PushReport:
    """Pushes a folder that `export_run` wrote to the data set OWNER/NAME on the Hugging Face Hub.

    It becomes private, and a pull request if the owner is somebody else. Settings are those of PushConfig:
    public, create_pr and dry_run. The token is that of `hf auth login`. Raises UsageError for a folder that
    is not a whole export or a public data set without `public`, MinerError if the Hub refuses.
    """
    from miner.export import push

    return push.push_export(Path(folder), repo, configured(push.PushConfig, None, settings))


def push_model(folder: PathLike, repo: str, **settings: Any) -> PushReport:
    """Pushes a folder with a model to the model OWNER/NAME on the Hugging Face Hub, as `push_export` does."""
    from miner.export import push

    return push.push_model(Path(folder), repo, configured(push.PushConfig, None, settings))


def read_recipe(path: PathLike) -> dict[str, Any]:
    """Returns the settings in a TOML recipe: `mine(store, **read_recipe("strict.toml"))`.

    Raises UsageError for an unknown key, or a value of the wrong kind.
    """
    return mining_config.read_recipe(Path(path))


def sql(store: StoreLike, query: str, limits: Limits | None = None, **settings: Any) -> pa.Table:
    """Returns the result of one SELECT over a store, which it cannot change, as an Arrow table.

    Settings: `timeout` in seconds, and `memory`, such as 2GB. Raises UsageError for anything but one SELECT,
    StoreError if it takes too long or needs too much memory.
    """
    chosen = configured(Limits, limits, settings)
    with select(path_of(store, read_only=True), query, chosen) as result:
        return result.arrow().read_all()
