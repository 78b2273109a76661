"""Judging a run's suspected positives or negatives with one language model, or with one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from miner.arrays import as_arrow, as_numpy
from miner.asking.cost import TokenUse
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, counted
from miner.judging.asking import Asker, Positives
from miner.judging.attach import attach
from miner.judging.check import JudgeError, KnownPairs
from miner.judging.config import GRADED, SAMPLED, JudgeConfig
from miner.models.chat import ChatModel
from miner.models.names import scorer_name
from miner.reporting.readable import Readable
from miner.store import judges as stored
from miner.store import labels, verdicts
from miner.store.database import Database
from miner.store.judges import RELEVANT, StoredJudge
from miner.store.runs import StoredRun
from miner.text import fingerprint


@dataclass(frozen=True, repr=False)
class JudgeReport(Readable):
    """What a judge was asked and said, and how often it errs."""

    run: str
    judge: str
    """Its name among the scorers of the run."""
    pairs: int
    """Pairs to judge, positives and the ones with known relevance not counted."""
    graded: int
    """Those that have a grade."""
    grades: Mapping[str, int]
    """How many pairs have each grade, `0` to `3`, and `unknown`: the answer cannot be read."""
    requests: int
    """Requests of this call."""
    tokens_in: int
    tokens_out: int
    money: float | None
    """What they cost; None without prices."""
    stopped: bool
    """Whether the budget ended the work before every pair was judged."""
    error: JudgeError | None
    """Its measured error; None if it was not measured."""

    @property
    def relevant(self) -> int:
        """Pairs that it calls relevant: grade 2 or 3."""
        return sum(number for grade, number in self.grades.items() if grade in ("2", "3"))


@dataclass(frozen=True, repr=False)
class JudgePlan(Readable):
    """What judging would take."""

    run: str
    pairs: int
    requests: int
    tokens_in: int
    """Estimated from the length of the texts."""
    tokens_out: int
    money: float | None
    """What they would cost; None without prices."""
    hosts: list[str]
    """Where the texts would go."""
    first: str
    """The first question in words: instructions and data; empty without any."""


def judge(
    store: Database,
    run: StoredRun,
    models: Sequence[str],
    config: JudgeConfig,
    progress: Progress = SILENT,
    *,
    answers: Path | None = None,
) -> JudgeReport:
    """Has language models judge pairs of a run, and adds their grades to its scorers.

    `models` are names `URL#MODEL`; with several, each later one is asked about what the one before it called
    relevant. Pairs with known relevance come first. The same call after a kill, or for another run, asks only
    about pairs that have no answer. With `answers`, a provider's file for a batch (`batch`), nothing is sent.
    Raises UsageError if there is nothing to judge and ModelError if a server does not answer; the answers
    until then are stored.
    """
    cascade = _Cascade.of(store, models, config, progress)
    work = _PairsToJudge.of(store, run, cascade.judge, config)
    if answers is not None:
        _take(cascade.askers, answers, progress)
    elif number := cascade.missing(work.pairs):
        hosts = ", ".join(dict.fromkeys(asker.model.host for asker in cascade.askers))
        progress.note(f"sending {counted(number, 'pair')} to {hosts}")
    if config.check and work.drawn is None and cascade.judge.checked is None:
        progress.note(
            "warning: the error of this judge cannot be measured on the judgments of the run"
            + ("; with --form graded one positive per query is enough" if config.form != GRADED else "")
        )
    error = _measured(store, run, cascade, config, work, sends=answers is None)
    if answers is None:
        cascade.ask(work.graded, work.positives, "judging")
    for asker in cascade.askers:
        asker.share(work.pairs)
    chosen = work.chosen
    attached = attach(store, run, cascade.judge)
    grades = stored.grades_of(store, cascade.judge, chosen)
    counts = _counts(grades)
    used = cascade.used
    if used.cut:
        progress.note(f"{counted(used.cut, 'document')} longer than {config.characters:,} characters: cut")
    name = next(one.name for one in reversed(attached.scorers) if one.model == cascade.judge.judge)
    return JudgeReport(
        run=run.name,
        judge=name,
        pairs=chosen.num_rows,
        graded=grades.num_rows - counts["unknown"],
        grades=counts,
        requests=used.requests,
        tokens_in=round(used.tokens_in),
        tokens_out=round(used.tokens_out),
        money=used.money,
        stopped=used.stopped,
        error=error,
    )


def plan(store: Database, run: StoredRun, models: Sequence[str], config: JudgeConfig) -> JudgePlan:
    """Returns what `judge` would send, without asking any server.

    For a cascade it is what the first model would get: the rest depends on its answers.
    """
    cascade = _Cascade.of(store, models, config, SILENT)
    work = _PairsToJudge.of(store, run, cascade.judge, config)
    usage, first = cascade.askers[0].estimate(work.pairs, work.positives)
    return JudgePlan(
        run=run.name,
        pairs=work.chosen.num_rows,
        requests=usage.requests,
        tokens_in=round(usage.tokens_in),
        tokens_out=round(usage.tokens_out),
        money=usage.money,
        hosts=list(dict.fromkeys(asker.model.host for asker in cascade.askers)),
        first="" if first is None else f"{first.system}\n\n{first.user}",
    )


def batch(store: Database, run: StoredRun, models: Sequence[str], config: JudgeConfig, out: Path) -> int:
    """Writes the requests that `judge` would send as a provider's batch; returns their number.

    `judge` with the provider's answers goes on from there. Raises UsageError if there is nothing to judge, or
    for a cascade: what its later models are asked depends on answers.
    """
    if len(models) > 1:
        raise UsageError("a batch has the requests of one model", "leave out --then")
    if config.budget is not None:
        raise UsageError("a budget does not limit a batch", "limit the pairs: --set sample=1000")
    from miner.judging.batch import write_batch  # which imports all kinds of sources

    (asker,) = _Cascade.of(store, models, config, SILENT).askers
    work = _PairsToJudge.of(store, run, asker.judge, config)
    return write_batch(asker, work.pairs, work.positives, out)


def _take(askers: Sequence[Asker], answers: Path, progress: Progress) -> None:
    """Takes in a provider's answers; reports what is not taken."""
    if len(askers) > 1:
        raise UsageError("a batch has the requests of one model", "leave out --then")
    from miner.judging.batch import read_batch  # which imports all kinds of sources

    found = read_batch(askers[0], answers)
    progress.note(f"{counted(found.taken, 'answer')} taken from {answers}")
    if found.failed:
        progress.note(f"{counted(found.failed, 'request')} without an answer: judge again to ask about them")
    if found.unknown:
        lines = counted(found.unknown, "line is", "lines are")
        progress.note(f"warning: {lines} about no request of this judge that waits for an answer")


@dataclass(frozen=True)
class _PairsToJudge:
    """The pairs to judge in a run: tables as `stored.with_pairs`."""

    chosen: pa.Table
    """Suspected positives or negatives."""
    graded: pa.Table
    """These, and the positives of their queries if rules compare with them."""
    drawn: KnownPairs | None
    """Pairs with known relevance, to measure the error on; None if there are none, or it was measured."""
    pairs: pa.Table
    """All of them."""
    positives: Positives
    """The positives that documents are compared with; none for the form `graded`."""

    @classmethod
    def of(cls, store: Database, run: StoredRun, judge: StoredJudge, config: JudgeConfig) -> _PairsToJudge:
        """Returns the pairs to judge; raises UsageError if there are none."""
        chosen = _wanted(store, run, config)
        if not chosen.num_rows:
            raise UsageError(
                f"run '{run.name}' has no pairs to judge: it has {_NONE[config.of]}",
                "choose other pairs with --of, or another run with --run",
            )
        parts = [chosen]
        if config.form == GRADED and config.positives:
            ids = stored.positives_of(store, run, list(dict.fromkeys(chosen["query_id"].to_pylist())))
            parts.append(stored.with_pairs(store, ids))
        graded = pa.concat_tables(parts)
        drawn = _drawn(store, run, judge, config)
        if drawn is not None:
            parts.append(stored.with_pairs(store, drawn.pairs))
        return cls(chosen, graded, drawn, pa.concat_tables(parts), _positives(store, run, config))


@dataclass(frozen=True)
class _Cascade:
    """One judge, or several of which each later one looks at what the one before it called relevant."""

    store: Database
    askers: Sequence[Asker]
    judge: StoredJudge
    """The judge whose grades are those of the last model that was asked."""

    @classmethod
    def of(cls, store: Database, models: Sequence[str], config: JudgeConfig, progress: Progress) -> _Cascade:
        """Returns the judges, which are stored if they are new."""
        used = TokenUse(money=0.0 if config.has_prices else None)
        settings: dict[str, Any] = {
            "form": config.form,
            "instructions": config.instructions,
            "characters": config.characters,
        }
        names = [scorer_name(one) for one in models]
        askers = []
        for one, name, prices in zip(models, names, config.prices(names), strict=True):
            model = ChatModel(
                one, patience=config.patience, answer_seconds=config.answer_seconds, progress=progress
            )
            own = stored.judge_of(store, config.identity(model.model), name, settings)
            askers.append(Asker(store, own, model, config, progress, used, prices))
        judge = askers[-1].judge
        if len(askers) > 1:
            members = [asker.judge.judge for asker in reversed(askers)]
            together = fingerprint({"cascade": members})
            judge = stored.judge_of(store, together, judge.name, settings, members)
        return cls(store, askers, judge)

    @property
    def used(self) -> TokenUse:
        """What all of them have used."""
        return self.askers[0].used

    def missing(self, pairs: pa.Table) -> int:
        """Returns the number of pairs that the first one was not asked about."""
        return int(self.askers[0].missing(pairs).num_rows)

    def ask(self, pairs: pa.Table, positives: Positives, task: str) -> None:
        """Asks the first about all pairs, and each later one about those of grade 2 or 3, or without one."""
        for number, asker in enumerate(self.askers):
            if not pairs.num_rows or self.used.stopped:
                return
            label = task if len(self.askers) == 1 else f"{task}, {asker.judge.name}"
            asker.ask(pairs, positives, label)
            if number + 1 < len(self.askers):
                grades = stored.grades_of(self.store, asker.judge, pairs)
                grade = np.nan_to_num(as_numpy(grades["grade"]), nan=RELEVANT)
                again = np.isin(as_numpy(pairs["pair"]), as_numpy(grades["pair"])[grade >= RELEVANT])
                pairs = pairs.filter(as_arrow(again))


def _wanted(store: Database, run: StoredRun, config: JudgeConfig) -> pa.Table:
    """Returns the pairs to judge (`stored.with_pairs`), or a random sample of them."""
    tables: list[pa.Table] = []
    if config.of in ("suspected", "both"):
        tables.append(verdicts.suspected(store, run).select(_IDS.names))
    if config.of in ("selected", "both"):
        tables.append(stored.selected_pairs(store, run))
    if config.of == SAMPLED:
        samples = labels.samples_of(store, run)
        tables += [labels.sampled_pairs(store, one).select(_IDS.names) for one in samples[:1]]
    if not tables:
        return _IDS.empty_table()
    pairs = stored.with_pairs(store, pa.concat_tables(tables))
    if config.sample is not None and config.sample < pairs.num_rows:
        rng = np.random.default_rng([config.seed, 2])
        pairs = pairs.take(as_arrow(np.sort(rng.permutation(pairs.num_rows)[: config.sample])))
    return pairs


_IDS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string())])


_NONE = {
    "suspected": "no suspected positives",
    "selected": "no negatives",
    "both": "neither suspected positives nor negatives",
    SAMPLED: "no sample that miner audit --label drew",
}


def _positives(store: Database, run: StoredRun, config: JudgeConfig) -> Positives:
    """Returns what reads the positives that documents are compared with; none for the form `graded`."""

    def read(query_ids: Sequence[str]) -> dict[str, list[str]]:
        """Returns the positives of some queries, in order."""
        found: dict[str, list[str]] = {}
        pairs = stored.positives_of(store, run, query_ids)
        for query, doc in zip(pairs["query_id"].to_pylist(), pairs["doc_id"].to_pylist(), strict=True):
            found.setdefault(query, []).append(doc)
        return found

    return read if config.form != GRADED else lambda query_ids: {}


def _drawn(store: Database, run: StoredRun, judge: StoredJudge, config: JudgeConfig) -> KnownPairs | None:
    """Returns the pairs to measure a judge's error on; None if there are none, or it was measured."""
    if not config.check or (judge.checked is not None and judge.checked["drawn"] >= config.check):
        return None
    drawn = KnownPairs.draw(store, run, config)
    return drawn if any(drawn.relevant) and not all(drawn.relevant) else None


def _measured(
    store: Database,
    run: StoredRun,
    cascade: _Cascade,
    config: JudgeConfig,
    work: _PairsToJudge,
    *,
    sends: bool,
) -> JudgeError | None:
    """Returns the error of a judge, which is measured now on the drawn pairs, or was before.

    It is measured only if all of the pairs have an answer, readable or not. Nothing is sent unless `sends`.
    """
    if work.drawn is None:
        before = cascade.judge.checked
        return None if before is None else JudgeError.of_json(before)
    pairs = stored.with_pairs(store, work.drawn.pairs)
    if sends:
        cascade.ask(pairs, work.positives, "measuring its error")
    for asker in cascade.askers:
        asker.share(pairs)
    grades = stored.grades_of(store, cascade.judge, pairs)
    if grades.num_rows < pairs.num_rows or cascade.used.stopped:
        return None  # some wait for the answer to a batch, or the budget ended before
    error = work.drawn.error(grades, run, config.seed)
    if error.kappa.value is not None:
        stored.keep_check(store, cascade.judge, error.as_json())
    return error


def _counts(grades: pa.Table) -> dict[str, int]:
    found = Counter(grades["grade"].to_pylist())
    return {str(grade): found[grade] for grade in range(4)} | {"unknown": found[None]}
