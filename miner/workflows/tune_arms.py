"""The arms of `miner tune`: which settings are compared on a run, and the rows that each trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import as_lists
from miner.auditing import calibrate as calibrating
from miner.auditing.config import CalibrationConfig
from miner.engine.progress import Progress
from miner.errors import UsageError
from miner.mining.config import RULES, Rules, Selection
from miner.mining.decide import Documents, decide_each
from miner.mining.pipeline import config_of
from miner.mining.rules import name_of
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import TextsById
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples
from miner.workflows.bench_config import EASY, IN_BATCH, MINED
from miner.workflows.row_negatives import pairs_with
from miner.workflows.run_rows import rows_of

WIDE = 4
"""Negatives per row of the wide settings."""
_NARROW = 3
"""The depth of a run is this many times the depth of its narrow settings."""
_SPREAD = 5
"""How many settings of calibrate's frontier are taken."""
_HALF = 0.5
"""The least coverage of a setting of the frontier: with less, most queries would lack negatives."""
_PLAIN = (
    Rules(relative_margin=0.1),
    Rules(relative_margin=0.2),
    Rules(percentile=5.0),
    Rules(relative_margin=None),
    Rules(percentile=20.0),
)
"""The rules that are compared if no positive can be hidden to find a frontier."""
_SKIPS = (5, 20)
"""Ranks that are left out where rules against high scores have no effect."""


@dataclass(frozen=True)
class Arm:
    """The negatives of one training."""

    kind: str
    """One of `bench_config.KINDS`."""
    per_row: int
    """Negatives per row."""
    rules: Rules = field(default_factory=Rules)
    selection: Selection = field(default_factory=Selection)

    @property
    def name(self) -> str:
        """The settings as people read them."""
        parts = [name_of(self.rules), self.selection.strategy] if self.kind == MINED else [self.kind]
        return ", ".join([*parts, *([f"{self.per_row} per row"] if self.per_row > 1 else [])])


@dataclass(frozen=True)
class DataFacts:
    """What the data are like, as far as it decides which rules can have an effect."""

    labelled: bool
    """Whether every query has a label: then all candidates of other labels are known negatives."""
    single: bool
    """Whether every query has one positive."""

    def notes(self) -> list[str]:
        """Returns what this means for the rules."""
        if self.labelled:
            return [
                "positives are by label: a candidate of another label is known to be a negative, so margins, "
                "percentiles and other bounds on scores drop none and are not compared; rank windows, depth, "
                "the strategy and the negatives per row are"
            ]
        if self.single:
            return [
                "every query has one positive: that one is the reference positive, so a margin is a distance "
                "from the only right answer that is known, and lowest, median and best are the same; a "
                "percentile or a bound on scores is one threshold for all queries and needs no such answer"
            ]
        return []


def facts_of(store: Database, run: StoredRun) -> DataFacts:
    """Returns the facts of a run's queries."""
    ((queries, positives, labelled),) = store.rows(
        """SELECT count(DISTINCT p.query_id), count(DISTINCT (p.query_id, p.doc_id)),
            count(DISTINCT p.query_id) FILTER (WHERE q.label IS NOT NULL)
        FROM positives p JOIN queries q USING (query_id) WHERE p.evidence = ?""",
        [run.evidence],
    )
    return DataFacts(labelled=queries > 0 and labelled == queries, single=queries == positives)


def rules_to_try(
    store: Database, run: StoredRun, facts: DataFacts, seed: int, progress: Progress
) -> list[Rules]:
    """Returns the default rules, the run's own, and those spread over calibrate's frontier, each once."""
    own = config_of(run).rules
    if facts.labelled:
        base = replace(own, **RULES)
        tried = [base, own, *(replace(base, skip_top=skip) for skip in _SKIPS)]
    else:
        tried = [Rules(), own, *_frontier(store, run, seed, progress)]
    if facts.single or facts.labelled:
        tried = [replace(rules, reference_positive="lowest") for rules in tried]
    return list(dict.fromkeys(tried))


def _frontier(store: Database, run: StoredRun, seed: int, progress: Progress) -> list[Rules]:
    """Settings from one end of the frontier to the other; a plain list if no positive can be hidden."""
    config = dict(run.config)
    limits = {"quota": (), "document_cap": None}
    config["selection"] = {**config["selection"], "strategy": "top", **limits}
    if config["rules"]["reference_positive"] == "each":
        config["rules"] = {**config["rules"], "reference_positive": "lowest"}
    try:
        settings = CalibrationConfig(seed=seed, scorers="deciding", use_labels=False)
        found = calibrating.frontier(store, replace(run, config=config), settings, progress)
    except UsageError as error:
        progress.note(f"no frontier of rules ({error.message}): a fixed list of rules is compared")
        return list(_PLAIN)
    enough = [one.rules for one in found if one.all_queries.coverage >= _HALF] or [one.rules for one in found]
    return spread(enough, _SPREAD)


def spread(found: Sequence[Rules], count: int) -> list[Rules]:
    """Returns at most `count` of them, evenly spaced, both ends among them."""
    positions = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    return [found[position] for position in positions.tolist()]


def baselines(rules: Rules, selection: Selection, training: EncoderConfig) -> list[Arm]:
    """Returns the arms that are always in the final: the default rules, easy and in-batch negatives."""
    default = Arm(MINED, 1, rules, replace(selection, strategy="top"))
    arms = [default, Arm(EASY, 1)]
    return arms if training.needs.texts[0] > 2 else [*arms, Arm(IN_BATCH, 0)]


def pool(rules: Sequence[Rules], selection: Selection, depth: int, training: EncoderConfig) -> list[Arm]:
    """Returns the arms to compare: rules crossed with strategies, depths and negatives per row.

    The order is diagonal: a prefix of it has several rules and several ways to select. The first rules with
    the first way are a baseline and not among them.
    """
    wide = min(WIDE, training.needs.texts[1] - 2)
    narrow = depth // _NARROW
    ways: list[tuple[str, int, int | None]] = [("top", 1, None), ("random", 1, None)]
    ways += [("top", wide, None)] if wide > 1 else []
    ways += [("random", 1, narrow)] if narrow > 1 else []
    ways += [("ambiguous", 1, None)]
    ways += [("random", wide, None)] if wide > 1 else []
    crossed = [
        (i + j, i, _arm(rules[i], selection, *ways[j]))
        for i in range(len(rules))
        for j in range(len(ways))
        if i + j
    ]
    arms = [arm for *_, arm in sorted(crossed, key=lambda one: one[:2]) if arm is not None]
    if wide > 1:
        arms.insert(min(3, len(arms)), Arm(EASY, wide))
    return list(dict.fromkeys(arms))


def _arm(rules: Rules, selection: Selection, strategy: str, per_row: int, narrow: int | None) -> Arm | None:
    """An arm; None if its depth leaves nothing, or is none at all."""
    if narrow is not None:
        if narrow <= rules.skip_top or (rules.max_rank or narrow + 1) <= narrow:
            return None
        rules = replace(rules, max_rank=narrow)
    negatives = max(selection.negatives, per_row)
    return Arm(MINED, per_row, rules, replace(selection, strategy=strategy, negatives=negatives))


class ArmRows:
    """The rows of every arm: its own positives, as `miner train` has them, in one seeded order."""

    def __init__(
        self,
        store: Database,
        run: StoredRun,
        arms: Sequence[Arm],
        training: EncoderConfig,
        seeds: Sequence[int],
    ) -> None:
        """Decides over the run's evidence for each arm, and draws easy negatives for each seed."""
        self._training = training
        self._texts = TextsById(store)
        positives = pairs_with(store, run, IN_BATCH, 0, training.seed)
        self.positives: int = positives.num_rows
        places = np.random.default_rng(training.seed).permutation(self.positives).tolist()
        self._position = dict(zip(_keys(positives), places, strict=True))
        self._pairs: dict[tuple[Arm, int], pa.Table] = {}
        mined = [arm for arm in arms if arm.kind == MINED]
        for arm, pairs in zip(mined, _decided(store, run, mined), strict=True):
            self._keep(arm, pairs, seeds)
        for arm in arms:
            if arm.kind == EASY:
                for seed in seeds:
                    self._keep(arm, pairs_with(store, run, EASY, arm.per_row, seed), [seed])
            elif arm.kind == IN_BATCH:
                self._keep(arm, positives, seeds)
        # Read now, because the store is closed while models train.
        self._texts.queries(positives["query_id"][:0])
        self._texts.documents(positives["positive_id"][:0])

    def _keep(self, arm: Arm, pairs: pa.Table, seeds: Sequence[int]) -> None:
        """Keeps the positives with enough negatives, with the position of each in the seeded order."""
        enough = pc.greater_equal(pc.list_value_length(pairs["negative_ids"]), arm.per_row)
        pairs = pairs.filter(enough)
        pairs = pairs.append_column(
            "position", pa.array([self._position[key] for key in _keys(pairs)], pa.int64())
        )
        for seed in seeds:
            self._pairs[arm, seed] = pairs

    def count(self, arm: Arm) -> int:
        """Returns how many positives have enough negatives in an arm."""
        return len(self._pairs[arm, self._training.seed])

    def examples(self, arm: Arm, rows: int, seed: int) -> Examples:
        """Returns the first `rows` rows of an arm in the seeded order, or all if it has fewer."""
        pairs = self._pairs[arm, seed]
        first = np.argsort(pairs["position"].to_numpy())[:rows]
        # All positives of their queries: which negative a positive gets depends on the others.
        pairs = pairs.filter(pc.is_in(pairs["query_id"], value_set=pairs["query_id"].take(first).unique()))
        order = np.argsort(pairs["position"].to_numpy())[: len(first)]
        every = rows_of(self._texts, pairs, self._training.loss, arm.per_row, f"arm {arm.name}")
        return every.take(order.tolist())


def _keys(pairs: pa.Table) -> list[tuple[str, str]]:
    return list(zip(pairs["query_id"].to_pylist(), pairs["positive_id"].to_pylist(), strict=True))


def _decided(store: Database, run: StoredRun, arms: Sequence[Arm]) -> list[pa.Table]:
    """Returns each arm's positives with their negatives as `mined_pairs`; nothing is stored."""
    if not arms:
        return []
    own = config_of(run)
    configs = [replace(own, rules=arm.rules, selection=arm.selection) for arm in arms]
    parts: list[list[pa.Table]] = [[] for _ in arms]
    documents = Documents.of(store, run.evidence)
    for number, decision in decide_each(store, run, configs):
        parts[number].append(_with_ids(decision.selected, documents))
    order = [("query_id", "ascending"), ("positive_id", "ascending")]
    return [pa.concat_tables(tables).sort_by(order) if tables else _NONE for tables in parts]


_NONE = pa.table(
    {"query_id": pa.array([], pa.string()), "positive_id": pa.array([], pa.string()),
     "negative_ids": pa.array([], pa.list_(pa.string()))}
)  # fmt: skip


def _with_ids(selected: pa.Table, documents: Documents) -> pa.Table:
    """Returns one row per query and positive, with the ids of its negatives, hardest first."""
    lists = selected["doc_nos"].combine_chunks()
    ids = documents.ids.take(pa.array(documents.indices_of(lists.flatten().to_numpy())))
    return pa.table(
        {
            "query_id": selected["query_id"].cast(pa.string()),
            "positive_id": selected["positive_id"].cast(pa.string()),
            "negative_ids": as_lists(ids, lists.value_lengths().to_numpy()),
        }
    )
