"""Mining from end to end: the stages in order, each done once."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from shlex import quote
from typing import TYPE_CHECKING, Any

from miner.engine.progress import SILENT, Progress
from miner.errors import StoreError, UsageError, counted, listed, near, numbers, printable, shown
from miner.mining.config import EXCLUDE, MiningConfig, require_used
from miner.mining.decide import ROWS, decide, deciding_scorer
from miner.mining.diff import changes
from miner.mining.selection import quotas
from miner.mining.unscored import unscored_note
from miner.models.constant import same_score
from miner.ranges import NO_VALUE
from miner.recipe import as_text
from miner.store import corpus, runs
from miner.store.database import Database
from miner.store.evidence import ScoreRange, pool_size, score_facts
from miner.store.ledger import KEY
from miner.store.models import record_model, shown_scorer
from miner.store.runs import LONGEST, StoredRun
from miner.store.scorers import BM25, IMPORTED, Scorer
from miner.text import fingerprint

if TYPE_CHECKING:
    from miner.collection.collection import Collection

DECIDE_CODE = 4
"""Raised if the same evidence and rules give other triplets than before."""

_LIBRARIES = ("hardneg-miner", "sentence-transformers", "torch", "bm25s", "duckdb", "numpy")


def mine(
    store: Database,
    config: MiningConfig,
    *,
    name: str | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> StoredRun:
    """Retrieves, reranks, decides and selects; returns the finished run.

    The same call after a kill continues where it stopped; a finished run is returned unchanged. `name` is the
    name of the run (default: r1, r2, …). The triplets do not depend on `workers`. Raises UsageError for a
    split without positives, or a name that another run has or that is not printable, and ModelError for a
    model that cannot be used.
    """
    from miner.collection.collection import Collection  # decide_again needs none of them: they load slowly
    from miner.collection.exclusion import Exclusions
    from miner.mining.adaptive import ends_of_rounds
    from miner.mining.evidence import Searches, evidence_stage, gather
    from miner.mining.scorers import open_scorers
    from miner.mining.scoring import Reranking, reranking_stage
    from miner.retrieval.search import search, search_stage

    _require_printable(name)
    require_used(config.selection)
    collection = Collection.load(store, config.split, config.queries, config.selection.seed)
    _require_known(config.protected, collection)
    models = open_scorers(store, collection, config, workers, progress)
    scorers = models.as_stored()
    decider = deciding_scorer(scorers, config).number
    quotas(config.selection, scorers)
    judged = corpus.known_positives(store), corpus.known_negatives(store)
    same = config.same_document == EXCLUDE
    exclusions = Exclusions.of(collection, *judged, config.overlaps, config.protected, same)
    expected = [search_stage(r, collection, config.depth).key for r in models.retrievers]
    evidence = evidence_stage(collection, expected, exclusions)
    previous = runs.runs(store)
    models.note_devices(store, progress)
    models.note_unread(config, progress)
    inputs = {**collection.hashes, "models": {one.name: one.model for one in scorers if one.model}}
    if longest := models.longest:
        inputs[LONGEST] = longest
    rounds = ends_of_rounds(config, canonical(config), scorers, decider, progress)
    if rounds is not None:
        inputs["rounds"] = rounds
    reranking = reranking_stage(collection, evidence.key, scorers, config, rounds)
    over = _Over(evidence.key, reranking.key if reranking else None, scorers, decider)
    described = _described(previous, config, inputs, over, name)
    with _entered(store, previous, described, progress) as run:
        if run.status == "done":
            progress.note(f"run {run.name} is already finished; there is nothing to do")
            _note_scores(store, run, progress)
            return run
        if all(one.name != run.name for one in previous):
            _note_changes(previous, run, progress)
        searches = [search(store, r, collection, config.depth, progress) for r in models.retrievers]
        gather(store, evidence, Searches(models.retrievers, searches), exclusions, progress)
        models.note_texts(config, progress)
        if reranking:
            of = store, models.rerankers, collection, run, config
            Reranking(*of, stage=reranking, workers=workers, progress=progress).score()
            models.note_pairs(progress)
        for kind, model in models.loaded:
            similarity = {"similarity": one} if (one := getattr(model, "similarity", None)) else {}
            record_model(store, model.fingerprint, kind, model.name, {"dtype": model.dtype, **similarity})
        return _decide(store, run, config, progress)


def decide_again(
    store: Database,
    run: StoredRun,
    config: MiningConfig,
    *,
    name: str | None = None,
    progress: Progress = SILENT,
) -> StoredRun:
    """Applies other rules and another selection to a run's stored evidence; returns the new run.

    No model runs. Raises UsageError for a name as `mine` does, and if `config` differs in a setting that
    evidence depends on. The seed is one of them if it drew a sample of the queries.
    """
    _require_printable(name)
    _require_same_search(store, run, config)
    require_used(config.selection, run.config["selection"])
    decider = deciding_scorer(run.scorers, config).number
    previous = runs.runs(store)
    over = _Over(run.evidence, run.reranking, run.scorers, decider)
    described = _described(previous, config, run.inputs, over, name)
    with _entered(store, previous, described, progress) as again:
        if again.status == "done":
            progress.note(f"run {again.name} is already finished; there is nothing to do")
            _note_scores(store, again, progress)
            return again
        if config.selection.strategy != "top":
            from miner.mining.adaptive import note_reach

            note_reach(run, progress)
        return _decide(store, again, config, progress)


def _require_same_search(store: Database, run: StoredRun, config: MiningConfig) -> None:
    """Raises UsageError if a run's evidence is not what a search with this configuration finds."""
    fixed = ("rules", "selection")
    before, now = dict(run.config), canonical(config)
    changed = {key: key for key in now if key not in fixed and now[key] != before.get(key)}
    if "/" in run.inputs["queries"] and config.selection.seed != run.seed:
        changed["seed"] = "seed, which draws the sample of the queries,"
        now["seed"] = config.selection.seed
    if changed:
        assignments = " ".join(
            f"--set {quote(f'{key}={value}')}" for key in changed for value in _written(key, now[key])
        )
        raise UsageError(
            f"{listed(changed.values())} belong{'s' * (len(changed) == 1)} to the search, and decide keeps "
            f"the candidates that run '{run.name}' found",
            f"search again: miner mine {quote(str(store.path))} {assignments}",
        )


def _written(key: str, value: object) -> list[str]:
    """Returns a setting's value as `--set` takes it; several for a list."""
    if key == "protected":
        return ["@FILE"]
    if isinstance(value, list):
        return value or [NO_VALUE]
    return [as_text(value)]


def _decide(store: Database, run: StoredRun, config: MiningConfig, progress: Progress) -> StoredRun:
    _note_teacher(run, config, progress)
    seen = ScoreRange()
    size = pool_size(store, run.evidence)
    decided = decide(store, run, config, size, seen)
    parts = ({"decisions": one.decisions, "selected": one.selected} for one in decided)
    finished = runs.finish_run(store, run.run_id, parts, aside=size[1] > ROWS)
    _note_scores(store, run, progress, seen)
    return replace(run, status="done", finished=finished)


def _note_teacher(run: StoredRun, config: MiningConfig, progress: Progress) -> None:
    """Reports that a selection for distillation goes by other scores than a reranker's."""
    by = run.deciding
    if config.selection.strategy != "stratified" or by.is_reranker:
        return
    given = ", unless its scores are a reranker's" if by.kind == IMPORTED else ""
    progress.note(
        f"strategy stratified is for an encoder that learns a reranker's scores, but {shown(by.name)} "
        f"({by.kind}) decides: mine with --reranker{given}"
    )


def _require_printable(name: str | None) -> None:
    """Raises UsageError for an empty name, or one with control characters or white space at an end."""
    if name is None:
        return
    if printable(name) != name:
        what = "has control characters"
    elif not name or name.strip() != name:
        what = "begins or ends with white space" if name else "is empty"
    else:
        return
    raise UsageError(f"the run name '{shown(name)}' {what}", "choose another name, such as strict")


def _require_known(protected: tuple[str, ...], collection: Collection) -> None:
    known = set(collection.doc_ids.to_pylist()) if protected else set()
    if unknown := [doc_id for doc_id in protected if doc_id not in known]:
        raise UsageError(
            f"protected document '{shown(unknown[0])}' is not in the store{near(unknown[0], known)}",
            "name ids of documents",
        )


def _note_changes(previous: Sequence[StoredRun], run: StoredRun, progress: Progress) -> None:
    """Reports what differs from the most similar run; the latest among equals."""
    differences = [(changes(one, run), one.name) for one in reversed(previous)]
    changed, name = min(differences, key=lambda one: len(one[0]), default=([], ""))
    if changed:
        progress.note(f"since run {name}: {'; '.join(changed)}")


@dataclass(frozen=True)
class _Over:
    """What a run decides over."""

    evidence: str
    reranking: str | None
    scorers: tuple[Scorer, ...]
    decider: int


def _described(
    known: Sequence[StoredRun],
    config: MiningConfig,
    inputs: Mapping[str, Any],
    over: _Over,
    name: str | None,
) -> StoredRun:
    """Returns the run that these settings describe; `known` are all runs of the store."""
    settings = canonical(config)
    over_keys = {"evidence": over.evidence, "reranking": over.reranking}
    identity = {"config": settings, "inputs": inputs, **over_keys, "code": DECIDE_CODE}
    run_id, unnamed = (fingerprint({**identity, "name": one})[:KEY] for one in (name, None))
    if any((other.run_id, other.name) == (unnamed, name) for other in known):
        run_id = unnamed  # the given name is the one that it got by default
    return StoredRun(
        run_id=run_id,
        name=name or runs.free_name({other.name for other in known}),
        split=config.split,
        config=settings,
        inputs=inputs,
        versions=_versions(),
        seed=config.selection.seed,
        evidence=over.evidence,
        reranking=over.reranking,
        decider=over.decider,
        negatives=config.selection.negatives,
        status="running",
        started=datetime.now(UTC).replace(tzinfo=None),
        finished=None,
        scorers=over.scorers,
    )


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {library: version(library) for library in _LIBRARIES} | {"python": platform.python_version()}


@contextmanager
def _entered(
    store: Database, stored: Sequence[StoredRun], run: StoredRun, progress: Progress
) -> Iterator[StoredRun]:
    """Yields the stored run with this run_id, or stores this one; another run must not have its name.

    An unfinished run with the same name and other settings is replaced; the results of its searches stay.
    After an error, a run that was stored here is removed; after a kill it stays and can be continued.
    """
    known = {one.run_id: one for one in stored}
    if run.run_id in known:
        yield known[run.run_id]
        return
    for other in known.values():
        if other.name == run.name:
            _replace_unfinished(store, other, run, progress)
    runs.begin_run(store, run)
    try:
        yield run
    except Exception:
        with suppress(Exception):  # the first error is the one to report
            runs.remove_runs(store, [run.name])
        raise


def _replace_unfinished(store: Database, other: StoredRun, run: StoredRun, progress: Progress) -> None:
    """Removes an unfinished run with the same name; raises UsageError if it is finished."""
    differences = "; ".join(changes(other, run)) or "it was made by another version of miner"
    if other.status == "done":
        raise UsageError(
            f"run '{run.name}' exists with other settings: {differences}",
            f"choose another name, or remove that run: miner runs {store.path} --remove {run.name}",
        )
    progress.note(f"run {run.name} was unfinished and had other settings: {differences}; it is replaced")
    runs.remove_runs(store, [other.name])


def canonical(config: MiningConfig) -> dict[str, Any]:
    """Returns the configuration as JSON-able values, nested as in a recipe."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    values["protected"] = sorted(config.protected)
    return values


def _note_scores(store: Database, run: StoredRun, progress: Progress, seen: ScoreRange | None = None) -> None:
    """Warns about scores that are not finite, and about a model whose scores are all the same.

    `seen` are those of the scorer that decides.
    """
    for scorer in run.scorers:
        name = shown_scorer(store, scorer)
        facts = score_facts(store, run, scorer, seen if scorer == run.deciding else None)
        unscored = numbers(candidate=facts.candidates, positive=facts.positives)
        if unscored:
            decides = scorer == run.deciding
            progress.note(
                f"warning: {name} gives no finite score to {unscored}, of {counted(facts.pairs, 'pair')}: "
                + ("pairs without a score are never selected" if decides else "another score decides here")
            )
            if decides and facts.queries:
                queries = counted(facts.queries, "query gets", "queries get")
                progress.note(
                    f"warning: {queries} no negatives, because no positive has a finite score by {name}"
                )
        if scorer == run.deciding and (note := unscored_note(store, run)):
            progress.note(note)
        finite = facts.pairs - facts.candidates - facts.positives
        constant = same_score(finite, facts.lowest, facts.highest)
        if constant and scorer.kind != BM25:
            progress.note(f"warning: {name} {constant}")


def config_of(run: StoredRun) -> MiningConfig:
    """Returns the configuration that a run was mined with; raises StoreError if it cannot be read."""
    from miner.mining.config import Rules, Selection

    values = dict(run.config)
    try:
        rules, selection = Rules(**values.pop("rules")), Selection(**values.pop("selection"))
        return MiningConfig(**values, rules=rules, selection=selection)
    except (UsageError, KeyError) as error:
        raise StoreError(
            f"run '{run.name}' was made by another version of miner", "mine again with this version"
        ) from error
