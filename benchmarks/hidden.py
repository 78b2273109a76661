"""How many hidden positives are selected as negatives, and what does it cost to select fewer?

The data are the train claims of perspectrum (13 positives each). A share of the positives is hidden, several
times. The benchmark reports the share of them that is selected (the hidden-positive rate): by
sentence-transformers' `mine_hard_negatives` with its defaults and with a relative margin of 0.05 (the
function itself is called, on the encoder alone), and by miner without a rule, with relative margins, and with
two settings that one half of the queries chooses among those of `miner calibrate`: the one for the target,
and the one with the lowest rate whose coverage is at least that of relative margin 0.05. A last setting is
one bound, chosen for the same target, on the probability that `miner relabel` fits on all scores and ranks,
each query's on other queries. All rates are those of the half that did not choose. miner's settings
share the scores: the encoder's, or with --reranker those of cross-encoders, one per repeat, trained on the
positives that this repeat does not hide; the peer is then not measured.

With an encoder alone, `--seeds` calibrations show how often the rate of the confirming half lies in the
interval that the choosing half expects.

Targets: the lowest rate is at most half of that of relative margin 0.05, at its coverage; with a reranker it
is below 0.7 % at a coverage of 95 %; 90 % of the seeds lie inside.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import HERE, Goal, Report, parser, report
from corpora import BUNDLED_FOLDER, Beir, kept_store
from peer import Texts, load_encoder
from peer import mine as mine_with_peer

from miner.auditing.calibrate import Calibration, calibrate
from miner.auditing.config import CalibrationConfig
from miner.auditing.measurement import halves
from miner.auditing.probability import Facts, Probability
from miner.auditing.replay import Replay, ReplayEvidence, Trial
from miner.engine.progress import Progress
from miner.engine.progress_bars import progress
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.stats import clustered_rate
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig

DATA = HERE.parent.parent / "shared" / "data" / "perspectrum"
NAIVE, MARGIN = "no rule", "relative margin 0.05, reference positive lowest"
CALIBRATED, LEAST = "calibrated for the target", "calibrated for the margin's coverage"
COMBINED = "all scores and ranks as one probability, bound chosen for the target"
BOUNDS = 100
"""How many bounds on the probability are tried."""
SETTINGS = {
    NAIVE: Rules(relative_margin=None),
    MARGIN: Rules(),
    "relative margin 0.05, reference positive median": Rules(reference_positive="median"),
    "relative margin 0.05, reference positive each": Rules(reference_positive="each"),
}
PEER: dict[str, dict[str, Any]] = {
    "mine_hard_negatives, defaults (3 negatives)": {"num_negatives": 3},
    "mine_hard_negatives, 5 negatives": {"num_negatives": 5},
    "mine_hard_negatives, 5 negatives, relative margin 0.05": {"num_negatives": 5, "relative_margin": 0.05},
}
"""Calls of sentence-transformers: by default it has no margin, and a margin starts at the lowest positive."""
HALF = Goal("lowest rate at the coverage of relative margin 0.05 / its rate", "<=", 0.5)
BELOW = Goal("hidden-positive rate of the calibrated setting, with a reranker", "<=", 0.007)
COVERAGE = Goal("coverage, calibrated, with a reranker", ">=", 0.95)
INSIDE = Goal("share of seeds whose confirmed rate lies in the expected interval", ">=", 0.9)


@dataclass
class Tally:
    """One setting's counts over the repeats, per query."""

    selected: list[Any]
    hidden: list[Any]
    distinct: list[Any]
    covered: list[Any]
    measured: list[Any]
    per_query: list[float]

    @classmethod
    def empty(cls) -> Tally:
        """Returns one without counts."""
        return cls([], [], [], [], [], [])

    def figures(self) -> dict[str, Any]:
        """Returns the hidden-positive rate with its interval, and the coverage."""
        distinct = int(np.logical_or.reduce(self.distinct).sum())
        rate = clustered_rate(np.sum(self.selected, axis=0), np.sum(self.hidden, axis=0), distinct)
        queries = int(np.logical_or.reduce(self.measured).sum())
        coverage = clustered_rate(np.sum(self.covered, axis=0), np.sum(self.measured, axis=0), queries)
        return {
            "hidden_positive_rate": rate.rate,
            "interval": [rate.low, rate.high],
            "selected": rate.hits,
            "hidden": rate.of,
            "coverage": coverage.rate,
            "coverage_interval": [coverage.low, coverage.high],
            "per_query": float(np.mean(self.per_query)),
        }


@dataclass(frozen=True)
class Outcome:
    """What one decision did with the positives, per positive, and how many negatives each query has."""

    hidden: Any
    selected: Any
    negatives: Any
    wanted: int
    """Negatives requested per query."""

    @classmethod
    def of(cls, trial: Trial, wanted: int) -> Outcome:
        """Returns the outcome of one of miner's replays."""
        return cls(trial.hidden, trial.selected, trial.negatives, wanted)


class Peer:
    """Calls `mine_hard_negatives` on what a replay leaves visible, with the bundled encoder's vectors."""

    def __init__(self, data: Path, cache: Path) -> None:
        self._data, self._cache = Beir.read(data), cache
        self._model = load_encoder(str(BUNDLED_FOLDER), "fp32")

    def outcome(self, replay: Replay, hidden: Any, settings: dict[str, Any]) -> Outcome:
        """Returns which hidden positives the call makes negatives of their query."""
        table, owner = replay.hideable.table, replay.hideable.positives.owner
        pairs = [
            (self._data.queries[query], self._data.documents[doc])
            for query, doc in zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
        ]
        visible = [pair for pair, gone in zip(pairs, hidden, strict=True) if not gone]
        texts = Texts([q for q, _ in visible], [d for _, d in visible], [*self._data.documents.values()])
        mined = mine_with_peer(texts, self._model, cache_folder=str(self._cache), **settings)
        chosen = {(row["query"], row["negative"]) for row in mined}
        selected = hidden & np.array([pair in chosen for pair in pairs])
        per_text = Counter(query for query, _ in chosen)
        negatives = np.zeros(replay.hideable.positives.queries, dtype=np.int64)
        negatives[owner] = [per_text[query] for query, _ in pairs]
        return Outcome(hidden, selected, negatives, settings["num_negatives"])


def add(tally: Tally, replay: Replay, trial: Outcome, among: Any) -> None:
    """Adds a trial's counts of some positives, and how many negatives their queries have."""
    owner, queries = replay.hideable.positives.owner, replay.hideable.positives.queries
    tally.selected.append(np.bincount(owner[trial.selected & among], minlength=queries))
    tally.hidden.append(np.bincount(owner[trial.hidden & among], minlength=queries))
    tally.distinct.append(trial.hidden & among)
    measured = np.bincount(owner[among], minlength=queries) > 0
    tally.measured.append(measured)
    tally.covered.append(measured & (trial.negatives >= trial.wanted))
    tally.per_query.append(float(trial.negatives[measured].mean()))


def siblings(data: Path, replay: Replay) -> list[tuple[int, ...]]:
    """Returns the clusters of perspectives that say the same, as positions of positives."""
    table = replay.hideable.table
    pairs = zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
    position = {pair: i for i, pair in enumerate(pairs)}
    found = []
    for line in (data / "clusters.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        known = [position[row["query_id"], d] for d in row["doc_ids"] if (row["query_id"], d) in position]
        if len(known) > 1:
            found.append(tuple(known))
    return found


def has_visible_sibling(clusters: Iterable[tuple[int, ...]], hidden: Any) -> Any:
    """Returns which hidden positives say the same as a visible one."""
    flags = np.zeros(len(hidden), dtype=np.bool_)
    for members in clusters:
        ids = np.array(members)
        if not hidden[ids].all():
            flags[ids[hidden[ids]]] = True
    return flags


def mined(store: Database, folder: Path, given: Namespace, repeat: int, reports: Progress) -> StoredRun:
    """Mines with the bundled encoder, and with a reranker that knows only what the repeat does not hide."""
    reranker = None
    if given.reranker:
        mined_negatives, random_negatives = given.drawn
        training = RerankerConfig(
            withheld=given.share, seed=given.seed + repeat, epochs=given.epochs,
            mined=mined_negatives, random=random_negatives,
        )  # fmt: skip
        reranker = str(
            train_reranker(store, folder / f"reranker-{repeat}", training, reports, force=True).out
        )
    # Both systems compute in the same numbers, on any processor.
    config = MiningConfig(
        encoder="bundled", bm25=not given.no_bm25, depth=given.depth, reranker=reranker or (), dtype="fp32"
    )
    return mine(store, config, progress=reports)


def chosen(
    store: Database, run: StoredRun, given: Namespace, seed: int, repeats: int, target: float | None
) -> Calibration:
    """Calibrates a run, for a target or for the coverage of its own rules."""
    return calibrate(store, run, target, CalibrationConfig(repeats, seed))


def measure(store: Database, folder: Path, given: Namespace, reports: Progress) -> dict[str, Tally]:
    """Returns the counts of every setting over the repeats."""
    tallies: dict[str, Tally] = {}
    peer = None if given.reranker else Peer(given.data, folder / "peer")
    for repeat in range(given.repeats):
        run = mined(store, folder, given, repeat, reports)
        replay = Replay.of(store, run)
        seed = given.seed + repeat
        hidden = replay.hideable.draw(given.share, np.random.default_rng([seed, 0]))
        evidence = replay.hide(replay.hideable.hide(hidden))
        # What a reranker was not trained on can be hidden one way only.
        repeats = 1 if given.reranker else 5
        found = chosen(store, run, given, seed, repeats, given.target)
        reports.note(f"repeat {repeat + 1}: calibrated to {found.chosen.name}")
        clusters = siblings(given.data, replay)
        confirms = confirming(replay, seed)
        kept = chosen(store, run, given, seed, repeats, target=None)
        both_chosen = {CALIBRATED: found.chosen.rules, LEAST: kept.chosen.rules}
        trials = {name: under(rules, replay, evidence) for name, rules in (SETTINGS | both_chosen).items()}
        trials[COMBINED] = combined(Facts.of(store, run, replay), evidence, ~confirms, given.target, seed)
        wanted = replay.config.selection.negatives
        outcomes = {name: Outcome.of(trial, wanted) for name, trial in trials.items()}
        if peer:
            outcomes = {n: peer.outcome(replay, hidden, s) for n, s in PEER.items()} | outcomes
        for name, trial in outcomes.items():
            add(tallies.setdefault(name, Tally.empty()), replay, trial, confirms)
            alike = has_visible_sibling(clusters, hidden)
            for title, group in (
                ("says the same as a visible one", alike),
                ("says what no other does", ~alike),
            ):
                add(
                    tallies.setdefault(f"{name}: hidden {title}", Tally.empty()),
                    replay,
                    trial,
                    group & confirms,
                )
    return tallies


def under(rules: Rules, replay: Replay, evidence: ReplayEvidence) -> Trial:
    """Returns what a run with these rules would decide."""
    return replace(replay, config=replace(replay.config, rules=rules)).decide(evidence)


def combined(facts: Facts, evidence: ReplayEvidence, choosing: Any, target: float, seed: int) -> Trial:
    """Drops what is likelier a positive than the highest bound that meets the target among `choosing`.

    If no bound meets it, the lowest that was tried is the bound.
    """
    probability = Probability(facts, [evidence], seed).of(evidence)
    score = evidence.candidates["score"].to_numpy()
    position = evidence.candidates.schema.get_field_index("score")
    free = probability[evidence.candidates["exclusion"].is_null().to_numpy() & ~np.isnan(probability)]
    for bound in np.unique(np.quantile(free, np.linspace(0, 1, BOUNDS)))[::-1]:
        kept = pa.array(np.where(probability > bound, np.nan, score))
        table = evidence.candidates.set_column(position, "score", kept)
        trial = under(SETTINGS[NAIVE], facts.replay, replace(evidence, candidates=table))
        if trial.selected[choosing].sum() <= target * trial.hidden[choosing].sum():
            break
    return trial


def confirming(replay: Replay, seed: int) -> Any:
    """Returns which positives belong to queries that did not choose the setting."""
    return halves(replay.hideable, seed)[1][replay.hideable.positives.owner]


def inside_expected(store: Database, run: StoredRun, given: Namespace) -> dict[str, Any]:
    """Returns how often the confirmed rate lies where it is expected, over seeds."""
    inside, rates = 0, []
    for seed in range(given.seeds):
        found = chosen(store, run, given, seed, 5, given.target)
        rate = found.chosen.confirming_half.hidden_positive_rate.rate or 0.0
        inside += found.expected.low <= rate <= found.expected.high
        rates.append([found.expected.low, found.expected.high, rate, found.chosen.name])
    return {"inside": inside / given.seeds, "seeds": given.seeds, "expected_and_confirmed": rates}


def ratio_interval(first: Tally, second: Tally, seed: int, rounds: int = 10_000) -> list[float]:
    """Returns the 95 % percentile bootstrap interval of the ratio of two hidden-positive rates.

    Both hide the same positives, so their rates are compared by the selected ones. Queries are drawn with
    replacement, each with all its draws.
    """
    counts = [np.sum(tally.selected, axis=0)[np.any(tally.measured, axis=0)] for tally in (first, second)]
    drawn = np.random.default_rng(seed).integers(0, len(counts[0]), (rounds, len(counts[0])))
    upper, lower = (one[drawn].sum(axis=1) for one in counts)
    return [float(end) for end in np.quantile(upper[lower > 0] / lower[lower > 0], [0.025, 0.975])]


def add_rows(found: Report, tallies: dict[str, Tally], given: Namespace) -> None:
    """Adds a row per setting, and the figures that have targets."""
    figures = {name: tally.figures() for name, tally in tallies.items()}
    for name, one in figures.items():
        goal = BELOW if given.reranker and name == CALIBRATED else None
        found.row(f"{name}: hidden-positive rate", one, goal=goal, value=one["hidden_positive_rate"])
    ratio = (
        figures[LEAST]["hidden_positive_rate"] / figures[MARGIN]["hidden_positive_rate"]
        if figures[MARGIN]["hidden_positive_rate"]
        else float("inf")
    )
    coverages = {
        name: one["coverage"] for name, one in figures.items() if name in (LEAST, CALIBRATED, MARGIN)
    }
    interval = ratio_interval(tallies[LEAST], tallies[MARGIN], given.seed)
    both = {"ratio": ratio, "interval": interval, "coverage": coverages}
    found.row(f"{LEAST} / {MARGIN}", both, goal=HALF, value=ratio)
    goal = COVERAGE if given.reranker else None
    interval = figures[CALIBRATED]["coverage_interval"]
    found.row(
        f"{CALIBRATED}: coverage", coverages | {"interval": interval}, goal=goal, value=coverages[CALIBRATED]
    )


def main() -> None:
    """Reads the arguments, mines, hides, measures, shows."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeats=5)
    arguments.add_argument("--data", type=Path, default=DATA, help="BEIR folder [%(default)s]")
    arguments.add_argument("--reranker", action="store_true", help="train cross-encoders and decide by them")
    arguments.add_argument("--epochs", type=int, default=2, help="of the cross-encoders [%(default)s]")
    arguments.add_argument(
        "--drawn", type=int, nargs=2, default=(4, 2), metavar=("MINED", "RANDOM"),
        help="negatives per positive that the cross-encoders train on [4 2]",
    )  # fmt: skip
    arguments.add_argument("--no-bm25", action="store_true", help="candidates from the encoder alone")
    arguments.add_argument("--depth", type=int, default=100, help="of each retriever [%(default)s]")
    arguments.add_argument("--share", type=float, default=0.3, help="of the positives, hidden [%(default)s]")
    arguments.add_argument(
        "--target", type=float, default=0.0025, help="hidden-positive rate to calibrate for [%(default)s]"
    )
    arguments.add_argument("--seeds", type=int, default=50, help="calibrations; 0: none [%(default)s]")
    given = arguments.parse_args()
    found = report("hidden", given, full_size=given.repeats >= 5)
    folder = given.work / f"hidden-{given.data.name}"
    with progress() as reports, Database.open(kept_store(folder / "hidden.duckdb", given.data)) as store:
        add_rows(found, measure(store, folder, given, reports), given)
        if given.seeds and not given.reranker:
            counts = inside_expected(store, mined(store, folder, given, 0, reports), given)
            found.row("seeds inside", counts, goal=INSIDE, value=counts["inside"])
    found.show()


if __name__ == "__main__":
    main()
