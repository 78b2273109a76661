"""`miner train`: trains an encoder on a file, a run or judgments, and scores it during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import drawn_share
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, counted, listed
from miner.export.teacher import BM25, ENCODER, IMPORTED, Teacher, teacher_of_export, teacher_of_run
from miner.models.similarity import SCORES
from miner.ranges import BELOW_1, ROW_NEGATIVES, check_fields, known_keywords, require_one_of, within
from miner.store import corpus, evidence
from miner.store.database import Database
from miner.store.faults import is_database
from miner.store.pending import TrainedModel
from miner.store.runs import StoredRun, find_run, runs, staleness
from miner.store.silver import SOURCES, graded, is_soft, judged_pairs
from miner.store.triplets import TextsById, known_pair_keys, pair_text_keys, text_labels
from miner.store.verdicts import negative_counts
from miner.text import fingerprint
from miner.training.encoder_config import SCRATCH, EncoderConfig
from miner.training.examples import Columns, Examples, examples_of, read_examples
from miner.training.record import note_training
from miner.workflows.bench_config import FEWER, IN_BATCH, KINDS, LEAVE_OUT, MINED, REPEAT
from miner.workflows.row_negatives import pairs_with
from miner.workflows.run_rows import LABELLED, rows_of, usable

if TYPE_CHECKING:
    from miner.evaluation.result import Evaluation
    from miner.training.batches import KnownPositives
    from miner.training.encoder_trainer import DevTask
    from miner.training.model_card import EncoderReport

DEV_QUERIES, DEV_DOCUMENTS = 500, 5000
"""The most dev queries and documents that a model is scored on during training: a seeded sample."""
TRAIN, DEV = "train", "dev"
_WITHHELD_STREAM = 4
"""The number of the random stream that draws withheld positives; no other draw uses it."""
JUDGMENTS = (*SOURCES, "both")
AUTO = "auto"
DEV_TASKS = (AUTO, "retrieval", "similarity", "labels")


@known_keywords
@dataclass(frozen=True)
class TrainingRows:
    """The part of a file or store to train on; UsageError for values that contradict each other."""

    run: str | None = None
    """Store: the run whose triplets are the rows; None: the last run."""
    negatives_per_row: int = within(1, ROW_NEGATIVES)
    """Run: negatives per row; the positives of a query use its negatives in turn, the hardest first."""
    row_negatives: str = MINED
    """Run: what the negatives of a row are, one of KINDS."""
    fewer_negatives: str = LEAVE_OUT
    """Run: what becomes of positives with fewer negatives than a row has, one of FEWER."""
    judgments: str | None = None
    """Store: one of JUDGMENTS, if the rows are judged pairs instead of triplets."""
    split: str | None = None
    """Judgments: their split; None: train."""
    withheld: float = within(0.0, BELOW_1)
    """Run: the share of each query's positives that are withheld from training, for a later audit."""
    columns: Columns = field(default_factory=Columns)
    """File: its columns. Judgments: the number that relevances are divided by."""

    def __post_init__(self) -> None:
        check_fields(self)
        require_one_of("row_negatives", self.row_negatives, KINDS)
        require_one_of("fewer_negatives", self.fewer_negatives, FEWER)
        if self.fewer_negatives != LEAVE_OUT and (self.judgments or self.row_negatives == IN_BATCH):
            raise UsageError("fewer_negatives is for rows with negatives of a run", "leave it out")
        if self.judgments and self.row_negatives != MINED:
            raise UsageError("row_negatives is for a run: judgments are pairs", "leave it out")
        if self.row_negatives == IN_BATCH and self.negatives_per_row != 1:
            raise UsageError("in-batch rows have no negatives of their own", "leave negatives_per_row out")
        if self.judgments and self.withheld:
            raise UsageError("withheld is for a run", "leave it out")
        if self.judgments not in (None, *JUDGMENTS):
            raise UsageError(f"no judgments '{self.judgments}'", f"use {', '.join(JUDGMENTS)}")
        if self.judgments and self.negatives_per_row != 1:
            raise UsageError("--negatives-per-row is for a run: judgments are pairs", "leave it out")
        if self.judgments and self.run:
            raise UsageError("--run and --judgments name two sets of rows", "give one of them")
        if self.split and not self.judgments:
            raise UsageError("split is for --judgments: a run has its own", "leave it out")

    @property
    def sources(self) -> Sequence[str]:
        """The sources of the judgments that this training uses."""
        return SOURCES if self.judgments == "both" else (self.judgments or SOURCES[0],)


@known_keywords
@dataclass(frozen=True)
class Dev:
    """The split that scores the model during training; UsageError for an unknown task."""

    store: Path | None = None
    """None: the store that is trained on, if it is one."""
    split: str | None = None
    """None: dev, if it has judgments."""
    task: str = AUTO
    """One of DEV_TASKS; `auto` detects the task from the judgments."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.task not in DEV_TASKS:
            raise UsageError(f"no dev task '{self.task}'", f"use {', '.join(DEV_TASKS)}")


def train(
    source: Path,
    out: Path,
    config: EncoderConfig,
    rows: TrainingRows | None = None,
    *,
    dev: Dev | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> EncoderReport:
    """Trains an encoder on a file, an export, or a store, and writes it to the folder `out`.

    For a store, known positives are masked, and `note_training` records in it the positives that the model
    was trained on. The model with the best score on `dev` is kept. Stores are open only before and after the
    training. Raises UsageError for settings that contradict each other or the rows, InputError for data that
    cannot be read, ModelError if the base does not load.
    """
    rows = rows or TrainingRows()
    if rows.columns.most != 1 and config.needs.label != "number":
        raise UsageError(f"label_max has no effect on loss {config.loss}", "it is for cosine")
    read = (_of_store if is_database(source) else _of_file)(source, config, rows, progress)
    task = _dev_task(source, dev or Dev(), config, read, progress)
    examples = read.examples
    progress.note(f"{len(examples):,} rows of {listed(examples.texts)} from {examples.origin}")
    if number := len(examples.classes):
        progress.note(f"{number} classes: {listed(examples.classes)}")
    about = {"source": source.name, **asdict(rows)}

    # Imported only now: it loads PyTorch, and errors in the rows are reported before that.
    from miner.training.encoder import train_encoder

    report = train_encoder(
        examples, out, config, known=read.known, dev=task, about=about, progress=progress, force=force
    )
    if read.positives is not None:
        note_training(source, read.store_id, out, _models(report, read.positives), progress)
    return report


@dataclass(frozen=True)
class _Read:
    """The rows to train on, and facts about their store."""

    examples: Examples
    split: str | None = None
    """Store: the split of the rows."""
    store_id: str = ""
    """Store: its `id`."""
    positives: pa.Table | None = None
    """Store: the positives (query_id, doc_id) among the rows."""
    known: KnownPositives | None = None
    run: str | None = None
    """Store: the run of the rows, if they are not judgments."""
    others: tuple[str, ...] = ()
    """Store: the runs of other splits."""


def _of_file(source: Path, config: EncoderConfig, rows: TrainingRows, progress: Progress) -> _Read:
    negatives = rows.negatives_per_row if rows.negatives_per_row != 1 else None
    flags = {"--run": rows.run, "--judgments": rows.judgments, "--negatives-per-row": negatives}
    flags["row_negatives"] = rows.row_negatives if rows.row_negatives != MINED else None
    flags["fewer_negatives"] = rows.fewer_negatives if rows.fewer_negatives != LEAVE_OUT else None
    for name, value in {**flags, "withheld": rows.withheld or None}.items():
        if value is not None:
            raise UsageError(
                f"{name} is for a store, but {source} is not one", "leave it out, or name a store"
            )
    if config.needs.label == "scores" and (teacher := teacher_of_export(source)):
        _require_teacher(teacher, config.loss, str(source), "STORE", progress)
    read = read_examples(str(source), config.loss, rows.columns)
    _note_unread(read, progress)
    return _Read(read)


def _note_unread(read: Examples, progress: Progress) -> None:
    """Notes the columns, splits and rows of a file or folder that are not read."""
    if read.unread:
        progress.note(f"not read: columns {listed(read.unread)}")
    if splits := read.unread_splits:
        name = f"split{'s' if len(splits) > 1 else ''} {listed(splits)} of {read.origin}"
        progress.note(f"not read: {name}; --dev needs a store: make one with miner ingest")
    for count, what in ((read.without_text, "an empty text"), (read.without_label, "no label")):
        if count:
            have = "rows have {} and are" if count > 1 else "row has {} and is"
            progress.note(f"{count:,} {have.format(what)} left out")


def _of_store(source: Path, config: EncoderConfig, rows: TrainingRows, progress: Progress) -> _Read:
    columns = rows.columns
    if columns.texts or columns.label or columns.positive_label:
        raise UsageError("--columns and --label-column are for a file", "leave them out: a store has its own")
    with Database.open(source, read_only=True) as store, store.snapshot():
        known = known_positives(store, rows.sources)
        if rows.judgments is not None:
            return _of_judgments(store, config, rows, known, progress)
        if columns.most != 1:
            raise UsageError("label_max is for files and --judgments", "leave it out: a run has no labels")
        run = find_run(store, rows.run)
        if stale := staleness(store, run):
            progress.note(stale)
        if config.needs.label == "scores":
            teacher = teacher_of_run(store, run)
            _require_teacher(teacher, config.loss, f"run {run.name}", str(source), progress)
        kind, count = rows.row_negatives, rows.negatives_per_row if rows.row_negatives != IN_BATCH else 0
        _require_kind(kind, config)
        all_pairs = pairs_with(store, run, kind, count, config.seed)
        if rows.withheld:
            withheld_pairs = withheld_positives(store, run, rows.withheld, config.seed)
            known = known.without(*(keys.to_numpy() for keys in pair_text_keys(store, withheld_pairs)))
            withheld = set(_ids(withheld_pairs))
            all_pairs = all_pairs.filter(pa.array([pair not in withheld for pair in _ids(all_pairs)]))
            progress.note(f"{counted(len(withheld), 'positive is', 'positives are')} withheld for an audit")
        enough = pc.greater_equal(pc.list_value_length(all_pairs["negative_ids"]), count)
        pairs = usable(all_pairs, count, f"run {run.name}", rows.fewer_negatives)
        if short := all_pairs.num_rows - (pc.sum(enough).as_py() or 0):
            positives = counted(short, "positive has", "positives have")
            what = ", which are repeated" if rows.fewer_negatives == REPEAT else ": left out"
            progress.note(f"{positives} fewer than {counted(count, 'negative')}{what}")
        if kind == MINED and (without := negative_counts(store, run).get(0)):
            queries = counted(without, "query has", "queries have")
            progress.note(f"run {run.name}: {queries} no negatives: left out")
        examples = rows_of(TextsById(store), pairs, config.loss, count, f"run {run.name}")
        seen = pairs.select(["query_id", "positive_id"]).rename_columns(["query_id", "doc_id"])
        others = tuple(one.name for one in runs(store) if one.finished and one.split != run.split)
        return _Read(examples, run.split, store.id, seen, known, run=run.name, others=others)


def _require_teacher(teacher: Teacher, loss: str, origin: str, store: str, progress: Progress) -> None:
    """Raises UsageError for BM25's scores; notes those of an encoder and given ones, from which it learns."""
    if teacher.kind == BM25:
        raise UsageError(
            f"loss {loss} learns a reranker's scores, but those of {origin} are BM25's",
            f"mine with --reranker: miner train-reranker {store} OUT, then miner mine {store} --reranker OUT",
        )
    if teacher.kind == ENCODER:
        progress.note(
            f"the scores of {origin} are {SCORES[teacher.similarity]} of the encoder {teacher.name}: loss "
            f"{loss} learns from it instead of a reranker"
        )
    if teacher.kind == IMPORTED:
        progress.note(
            f"the scores of {origin} are those of {teacher.name}, which were given: loss {loss} learns from "
            "them, whether a reranker made them or not"
        )


def _require_kind(kind: str, config: EncoderConfig) -> None:
    """Raises UsageError if a loss cannot train on rows with such negatives."""
    if kind != MINED and config.needs.label == "scores":
        raise UsageError(
            f"loss {config.loss} needs the scores of mined negatives, {kind} ones have none",
            "leave row_negatives out, or use loss mnr",
        )
    if kind == IN_BATCH and (config.needs.texts[0] > 2 or config.loss in LABELLED):
        raise UsageError(
            f"loss {config.loss} needs a negative in every row, in-batch rows have none",
            "leave row_negatives out, or use loss mnr",
        )


def _ids(pairs: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(pairs["query_id"].to_pylist(), pairs["positive_id"].to_pylist(), strict=True)


def withheld_positives(store: Database, run: StoredRun, share: float, seed: int) -> pa.Table:
    """Returns the positives (query_id, positive_id) of a run's queries that a training withholds.

    They are about `share` of each query's positives, of which at least one stays; they are the same for every
    run over the same judgments.
    """
    pairs = evidence.positive_pairs(store, run.evidence)
    pairs = pairs.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
    _, owner = np.unique(pairs["query_id"].to_numpy(), return_inverse=True)
    rng = np.random.default_rng([seed, _WITHHELD_STREAM])
    drawn = drawn_share(owner, np.ones(len(owner), dtype=np.bool_), share, rng)
    return pairs.filter(pa.array(drawn)).rename_columns(["query_id", "positive_id"])


def _of_judgments(
    store: Database, config: EncoderConfig, rows: TrainingRows, known: KnownPositives, progress: Progress
) -> _Read:
    split = rows.split or TRAIN
    table = judged_pairs(store, split, rows.sources)
    origin = f"{rows.judgments} judgments"
    positive = table.filter(pc.greater(table["relevance"], 0))
    seen = positive.select(["query_id", "doc_id"])
    needs = config.needs
    if needs.texts[0] > 2:
        raise UsageError(
            f"loss {config.loss} needs negatives, but {origin} have none",
            f"mine some: miner mine {store.path}; then train on the run",
        )
    if needs.label != "number":
        _require_sure(store, config.loss, rows.sources)
        note = graded(store, split, origin, f"loss {config.loss}") if SOURCES[0] in rows.sources else None
        if note:
            progress.note(note)
    if not needs.label:
        table = positive
    texts = {"anchor": table["query"], "positive": table["document"]}
    target: dict[str, Any] = {}
    if needs.label == "class":
        target["label"] = pc.if_else(pc.greater(table["relevance"], 0), "relevant", "not relevant")
    elif needs.label:
        # Silver relevances are probabilities already.
        by_people = pc.not_equal(table["source"], SOURCES[1])
        most = pc.if_else(by_people, rows.columns.most, 1.0)
        target["label"] = pc.divide(table["relevance"], most)
    return _Read(
        examples_of(pa.table({**texts, **target}), origin, config.loss), split, store.id, seen, known
    )


def _require_sure(store: Database, loss: str, sources: Sequence[str]) -> None:
    """Raises UsageError for soft silver judgments: all of them are above 0."""
    if SOURCES[1] in sources and is_soft(store):
        raise UsageError(
            f"silver judgments were made with --soft: loss {loss} would treat every pair as a positive",
            "use --loss cosine, or make them again without --soft (no pair is scored again)",
        )


def _dev_task(
    source: Path, dev: Dev, config: EncoderConfig, read: _Read, progress: Progress
) -> DevTask | None:
    if not config.evaluations:
        if dev != Dev():
            raise UsageError("a dev split has no effect without evaluations", "leave evaluations=0 out")
        return None
    path = dev.store or (source if read.split is not None else None)
    if path is None and dev.split is not None:
        raise UsageError(f"dev_split '{dev.split}' needs a store", "name the store to score on with --dev")
    task = None if path is None else _dev_of_store(path, source, dev, config, read)
    if task is None:
        _require_no_dev(dev, config)
        progress.note("no dev split to score on: the last model is kept")
    return task


def _require_no_dev(dev: Dev, config: EncoderConfig) -> None:
    """Raises UsageError for a setting that has an effect only on scoring."""
    for name, given in (("patience", config.patience is not None), ("dev_task", dev.task != AUTO)):
        if given:
            raise UsageError(
                f"{name} has no effect without a dev split",
                f"name one with --dev or --set dev_split=SPLIT, or leave {name} out",
            )


def _dev_of_store(path: Path, source: Path, dev: Dev, config: EncoderConfig, read: _Read) -> DevTask | None:
    trained = read.split if path.resolve() == source.resolve() else None
    if trained == (dev.split or DEV):
        another = "choose it with another split, --set dev_split=SPLIT, or with none, --set evaluations=0"
        if read.run and read.others:
            another = f"train on a run of another split, --run {read.others[-1]}; or {another}"
        what = f"run {read.run} is of split '{read.split}', which" if read.run else f"split '{read.split}'"
        raise UsageError(f"{what} is trained on and cannot also choose the model", another)
    with Database.open(path, read_only=True) as store, store.snapshot():
        return dev_task(store, dev.split, config.seed, dev.task, trained)


def known_positives(store: Database, sources: Sequence[str] = SOURCES[:1]) -> KnownPositives:
    """Returns the pairs that people or these sources judged relevant, in any split, and the texts' labels."""
    from miner.training.batches import KnownPositives

    keys = known_pair_keys(store, (*sources, SOURCES[0]))
    anchors, documents = keys["query_key"].to_numpy(), keys["doc_key"].to_numpy()
    return KnownPositives(anchors, documents, text_labels(store))


def _models(report: EncoderReport, positives: pa.Table) -> list[TrainedModel]:
    """The model in either dtype, with the positives that it was trained on."""
    from miner.models.encoder import Encoder

    base = report.metrics.base_fingerprint
    records = []
    for dtype in ("fp32", "bf16"):
        model = Encoder(str(report.out), dtype=dtype)
        details = {
            "dtype": dtype, "training": report.metrics.fingerprint, "weights": model.weights,
            "base": None if report.metrics.base == SCRATCH else base,
            "similarity": model.similarity,
        }  # fmt: skip
        records.append(TrainedModel(model.fingerprint, "encoder", str(report.out), details, base, positives))
    return records


def dev_task(
    store: Database, split: str | None = None, seed: int = 13, task: str = AUTO, trained: str | None = None
) -> DevTask | None:
    """Returns how to score a model on a split of a store, or on a sample of a large split.

    `task` is one of DEV_TASKS; `auto` detects it from the judgments. Returns None if no split is named and
    `dev` has no judgments. Raises UsageError if a named split has nothing to score on.
    """
    from miner.evaluation.evaluate import EvaluationConfig, encoder_task, task_of_split
    from miner.evaluation.retrieval import sampled_task
    from miner.models.similarity import COSINE, without_gaps
    from miner.training.encoder_losses import similarity_of
    from miner.training.encoder_trainer import DevTask

    if split is None and DEV not in corpus.judged_splits(store):
        return None
    if split is not None:
        corpus.require_judgments(store, split, "--set dev_split=SPLIT", trained)
    config = EvaluationConfig(split=split or DEV, task=task, queries=DEV_QUERIES, seed=seed)
    if task_of_split(store, config) == "retrieval":
        read: Any = sampled_task(store, config.split, DEV_QUERIES, DEV_DOCUMENTS, seed)
    else:
        read = encoder_task(store, config)
    content = fingerprint({**corpus.content_hashes(store, config.split), "split": config.split, "seed": seed})

    def score(model: Any) -> Evaluation:
        """Returns the model's evaluation."""
        similarity = similarity_of(model)

        def encode(texts: Sequence[str], role: str) -> Any:
            """Returns the vectors by the model's prompt and route for the role; of length 1 for cosines."""
            vectors = model.encode(
                list(texts),
                prompt=model.prompts.get(role) or "",  # None would be the model's default prompt
                batch_size=64,
                show_progress_bar=False,
                task=role,
            )
            return without_gaps(np.asarray(vectors, dtype=np.float32), similarity == COSINE)

        evaluation: Evaluation = read.measure(encode, similarity)
        return evaluation

    size = f"at most {DEV_QUERIES} queries and {DEV_DOCUMENTS:,} documents"
    name = f"split {config.split} of {store.path.name}, {size}"
    return DevTask(read.headline, name, content, score)
