"""The audit: known positives are hidden, and counted is how many come back as negatives.

Nothing is searched or scored: the stored evidence is decided again as if nobody had judged them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.auditing.config import AuditConfig
from miner.auditing.hiding import Hideable
from miner.auditing.replay import NOT_FOUND, Material, Trial, Yield
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.mining.rules import KEPT, REASONS, in_force
from miner.schema import SUSPECTED
from miner.stats import Rate, clustered_rate
from miner.store import audits as stored
from miner.store.database import Store
from miner.store.evidence import candidate_facts
from miner.store.models import models_of_unknown_training, trained_models
from miner.store.runs import Run

Flags = npt.NDArray[np.bool_]

BANDS = (5, 10, 20, 50, 100)
"""Fused ranks up to which the leak is told apart."""
CANNOT_KNOW = (
    "Hidden positives are positives that somebody found. Those that nobody found may be harder to tell "
    "from negatives, or easier: the leak rate says nothing of them."
)


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    run: str
    rules: str
    """The rules in force, and the reference positive where it is used."""
    settings: AuditConfig
    asked: int
    """Negatives per query."""
    positives: int
    """All of the run."""
    hideable: int
    barred: dict[str, int]
    """How many may not be hidden, by `stored.CANNOT_HIDE`."""
    untold: list[str]
    """Models of the run of whose training the store knows nothing."""
    chosen_on: dict[str, Any] | None
    """Where the rules were chosen on these very positives: as `stored.calibrated_on`."""
    hidden: float
    """Positives hidden in a repeat, mean."""
    leak: Rate
    """Hidden positives that came back as negatives."""
    wrong: Rate
    """Negatives that are hidden positives, of those of the queries that had some hidden."""
    found_by: dict[str, Rate]
    """The leak among hidden positives that each retriever returned."""
    bands: dict[str, Rate]
    """The leak by fused rank."""
    outcomes: dict[str, Rate]
    """The share of the hidden positives that each rule dropped, or that became something else: the leaked are
    `negative`. The commonest first."""
    as_mined: Yield
    """With nothing hidden."""
    as_audited: Yield
    """With positives hidden, mean over the repeats."""
    weak_positives: int
    """Judged positives below each of their query's negatives in every score: view `weak_positives`."""

    def as_json(self) -> dict[str, Any]:
        """Returns the audit as JSON-able values."""
        return {**asdict(self), "cannot_know": CANNOT_KNOW}


def audit(
    store: Store,
    run: Run,
    settings: AuditConfig,
    progress: Progress = SILENT,
    *,
    among: pa.Table | None = None,
) -> Audit:
    """Hides positives of a run, decides again, counts what leaks; stores the result and returns it.

    Only positives that no model of the run was trained on are hidden; with `among` (query_id, doc_id) only
    those of them, and the result is not stored. No model runs. Raises UsageError when none may be hidden.
    """
    material = Material.of(store, run)
    if among is not None:
        material = replace(material, hideable=material.hideable.among(among))
    require_hideable(store, run, material.hideable)
    trials = []
    with progress.task("auditing", settings.repeats, unit="repeats") as advance:
        for hidden in material.hideable.draws(settings):
            trials.append(material.trial(material.without(hidden)))
            advance(1)
    found = _audit(store, run, material, settings, trials)
    if among is None:
        stored.keep_audit(store, run, asdict(settings), found.as_json())
    return found


def require_hideable(store: Store, run: Run, hideable: Hideable) -> None:
    """Raises UsageError, with what to do, when no positive of the run may be hidden."""
    if hideable.allowed.any():
        return
    bars = hideable.bars()
    told = ", ".join(f"{number:,} {stored.CANNOT_HIDE[bar]}" for bar, number in bars.items())
    hints = [_hint(store, run, bar) for bar in sorted(bars, key=lambda bar: -bars[bar])]
    raise UsageError(f"no positive of run '{run.name}' can be hidden: {told}", "; or ".join(hints))


_HINTS = {
    "only": "an audit needs queries with two positives or more",
    "relabelled": "take them back with miner relabel --undo",
    "same_text": "give queries that read the same one id",
    "label": "judge pairs of query and document: what a label says of all cannot be hidden",
    "other_split": "judge a pair in one split only",
    "not_held_out": "hold more back with --hold-out",
    "not_scored": "mine with a model that gives finite scores",
}


def _hint(store: Store, run: Run, bar: str) -> str:
    """What to do about positives that may not be hidden."""
    if bar != "trained":
        return _HINTS[bar]
    hints = []
    if run.encoder in (known := trained_models(store, run)):
        hints.append(f"train the encoder on fewer, with miner train {store.path} OUT --hold-out 0.3")
    if run.reranker in known:
        hints.append(
            f"train the reranker on fewer, with miner train-reranker {store.path} OUT --hold-out 0.3 "
            "or --folds 2"
        )
    return f"{' and '.join(hints)}, and mine with {'that' if len(hints) == 1 else 'those'}"


def _audit(store: Store, run: Run, material: Material, settings: AuditConfig, trials: list[Trial]) -> Audit:
    hideable = material.hideable
    none = np.zeros(len(hideable.allowed), dtype=np.bool_)
    every = [trial.hidden for trial in trials]
    return Audit(
        run=run.name,
        rules=in_force(material.config),
        settings=settings,
        asked=run.negatives,
        positives=len(none),
        hideable=int(hideable.allowed.sum()),
        barred=hideable.bars(),
        untold=models_of_unknown_training(store, run),
        chosen_on=stored.calibrated_on(store, run),
        hidden=float(np.mean([trial.hidden.sum() for trial in trials])),
        leak=_leak(material, trials, every),
        wrong=_wrong(material, trials),
        found_by={name: _leak(material, trials, f) for name, f in _found_by(store, run, trials)},
        bands={name: _leak(material, trials, inside) for name, inside in _bands(material, trials)},
        outcomes=_outcomes(material, trials),
        as_mined=material.trial(material.without(none)).cost,
        as_audited=Yield.mean([trial.cost for trial in trials]),
        weak_positives=stored.weak_positives(store, run).num_rows,
    )


def _outcomes(material: Material, trials: list[Trial]) -> dict[str, Rate]:
    codes = np.unique(np.concatenate([trial.outcome[trial.hidden] for trial in trials])).tolist()
    flags: dict[str, list[Flags]] = {}
    for name in dict.fromkeys(map(_named, codes)):
        alike = [code for code in codes if _named(code) == name]
        flags[name] = [trial.hidden & np.isin(trial.outcome, alike) for trial in trials]
    every = [trial.hidden for trial in trials]
    found = {name: _rate(material, some, every) for name, some in flags.items()}
    return dict(sorted(found.items(), key=lambda one: (-one[1].hits, one[0])))


def _named(code: int) -> str:
    if code == NOT_FOUND:
        return "not_found"
    if code < KEPT:
        return "negative"
    return "kept" if code == KEPT else str(REASONS[code % SUSPECTED])


def _leak(material: Material, trials: list[Trial], among: list[Flags]) -> Rate:
    """The share of hidden positives that leaked, of those `among` in each trial."""
    asked = [trial.hidden & some for trial, some in zip(trials, among, strict=True)]
    return _rate(material, [trial.leaked & some for trial, some in zip(trials, asked, strict=True)], asked)


def _rate(material: Material, hit: list[Flags], asked: list[Flags]) -> Rate:
    """The share of the positives asked about that are hit, over all trials; queries are the clusters."""
    owner, queries = material.hideable.positives.owner, material.hideable.positives.queries
    hits, totals = np.zeros(queries, dtype=np.int64), np.zeros(queries, dtype=np.int64)
    for one, all_ in zip(hit, asked, strict=True):
        hits += np.bincount(owner[one], minlength=queries)
        totals += np.bincount(owner[all_], minlength=queries)
    return clustered_rate(hits, totals, int(np.logical_or.reduce(asked).sum()))


def _wrong(material: Material, trials: list[Trial]) -> Rate:
    """The share of the negatives that are hidden positives, over the queries with hidden ones."""
    owner, queries = material.hideable.positives.owner, material.hideable.positives.queries
    hits, totals = np.zeros(queries, dtype=np.int64), np.zeros(queries, dtype=np.int64)
    for trial in trials:
        asked = np.bincount(owner[trial.hidden], minlength=queries) > 0
        hits += trial.wrong
        totals += np.where(asked, trial.negatives, 0)
    return clustered_rate(hits, totals, max(1, int(totals.sum()) // len(trials)))


def _found_by(store: Store, run: Run, trials: list[Trial]) -> Iterator[tuple[str, list[Flags]]]:
    facts = candidate_facts(store, run)
    for name in ("bm25", "dense"):
        returned = facts[f"{name}_rank"].is_valid().to_numpy()
        if returned.any():
            yield name, [(trial.row >= 0) & returned[trial.row] for trial in trials]


def _bands(material: Material, trials: list[Trial]) -> Iterator[tuple[str, list[Flags]]]:
    rank = [np.where(t.row >= 0, np.append(material.fused_rank, 0)[t.row], 0) for t in trials]
    low = 1
    for high in BANDS:
        yield f"{low}-{high}", [(one >= low) & (one <= high) for one in rank]
        low = high + 1
    yield f"from {low}", [one >= low for one in rank]
