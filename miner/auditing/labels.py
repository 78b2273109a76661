"""The false-negative rate of a run, estimated from people's labels of a random sample of its negatives.

`draw_sample` draws the sample and writes it as a table to fill in; `keep_labels` reads it back and estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.auditing.estimate import ESTIMATOR, Design, Labelled, plain_width
from miner.auditing.graded import JudgePredictions, judge_predictions, query_weights, unjudged_negatives
from miner.auditing.sample_file import COLUMNS, open_labels, read_labels, require_new, write_sample
from miner.errors import UsageError, counted, listed
from miner.ranges import LABELS, SEED, check_fields, known_keywords, within
from miner.reporting.readable import Readable
from miner.stats import with_interval
from miner.store import labels as stored
from miner.store.database import Database
from miner.store.labels import StoredSample, Strata
from miner.store.runs import StoredRun

Floats = npt.NDArray[np.float64]

LIKELY = (0.01, 0.05, 0.1, 0.2)
"""False-negative rates for which the expected width of the interval is reported."""
NARROW = 0.04
"""The width of an interval for which the number of labels is reported."""
_NUMBERS = [step * 2**power for power in range(14) for step in (50, 75)]
"""The numbers of labels that are tried for it."""


@known_keywords
@dataclass(frozen=True)
class SampleConfig:
    """Which negatives to label. Raises UsageError at construction for a value out of range."""

    labels: int = within(200, LABELS)
    """Number of negatives to label."""
    seed: int = within(13, SEED)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, repr=False)
class LabelSample(Readable):
    """A sample of a run's negatives to label."""

    run: str
    negatives: int
    """Negatives of the run: pairs of query and document."""
    judged: int
    """Those that a judgment or a label already calls not relevant. Nobody needs to label them."""
    pairs: pa.Table
    """The sample in random order: query_id, doc_id, query, document, and relevance where a label is known."""
    widths: Mapping[float, float]
    """The expected width of the 95 % interval for several false-negative rates."""
    plain_widths: Mapping[float, float]
    """The same for a plain random sample of that size."""
    needed: Mapping[float, int]
    """About how many labels an interval as wide as NARROW needs, for the same rates; at most one per negative
    that nobody judged."""

    @property
    def labelled(self) -> int:
        """Pairs of the sample whose label is known from earlier."""
        return int(self.pairs.num_rows - self.pairs["relevance"].null_count)

    def __repr__(self) -> str:
        drawn = f"{self.pairs.num_rows:,} of {self.negatives:,} negatives"
        return f"LabelSample of run '{self.run}': {drawn} to label"

    def as_json(self) -> dict[str, Any]:
        """Returns the counts and the widths as JSON-able values, without the pairs."""
        return {
            "run": self.run,
            "pairs": self.pairs.num_rows,
            "negatives": self.negatives,
            "judged": self.judged,
            "labelled": self.labelled,
            "widths": {str(rate): width for rate, width in self.widths.items()},
            "plain_widths": {str(rate): width for rate, width in self.plain_widths.items()},
            "needed": {str(rate): number for rate, number in self.needed.items()},
        }

    def as_text(self) -> str:
        """Returns what was drawn, and how wide the interval will be."""
        from miner.auditing.label_report import sample_table  # which needs this module

        return sample_table(self)


@dataclass(frozen=True, repr=False)
class FalseNegativeRate(Readable):
    """The share of a run's negatives that are relevant, estimated from labels, with 95 % intervals."""

    run: str
    rate: float
    low: float
    high: float
    per_query: float
    """The mean over queries of the share of a query's negatives that are relevant."""
    per_query_low: float
    per_query_high: float
    labels: int
    """Labels that the estimate rests on."""
    relevant: int
    """How many of them are relevant. Likely ones are sampled more: this is not the rate."""
    unlabelled: int
    """Pairs of the sample without a label."""
    negatives: int
    judged: int
    """Negatives that a judgment or a label already calls not relevant: they count as right."""
    sources: dict[str, int]
    """Labels by source, such as `person`."""
    seed: int
    """The seed of the sample."""
    estimator: str = ESTIMATOR
    judge: str | None = None
    """The judge whose grades serve as predictions; None without one."""
    graded: int = 0
    """Negatives whose grades the estimate uses: all of the run, or those of the sample."""
    without_judge: tuple[float, float, float] | None = None
    """The rate and the ends of its interval without these grades."""

    def __repr__(self) -> str:
        return f"False-negative rate of run '{self.run}': {self.interval}, {self.labels:,} labels"

    @property
    def interval(self) -> str:
        """The rate with its interval, in percent."""
        return with_interval(self.rate, self.low, self.high)

    def as_text(self) -> str:
        """Returns the table, as `miner audit` shows it."""
        from miner.auditing.label_report import label_table  # which needs this module

        return label_table(self)

    def as_json(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values."""
        return asdict(self)


def draw_sample(
    store: Database, run: StoredRun, config: SampleConfig, out: Path | None = None
) -> LabelSample:
    """Draws a seeded sample of a run's negatives, stratified by their predicted chance of being relevant.

    Stores the sample, and writes it to `out` (.csv or .tsv) for labelling: a person fills in the column
    `relevance`, 0 for not relevant and 1 or more for relevant. With the same seed, more labels extend a
    smaller sample. Known labels are filled in. Raises UsageError for a run without negatives to label, or if
    `out` exists, since it may hold labels.
    """
    if out is not None:
        require_new(out)
    table, chance, rows = unjudged_negatives(store, run)
    is_negative, judged = table["negative"].to_numpy(), table["judged"].to_numpy()
    if not len(rows):
        why = "all of its negatives are judged already" if is_negative.any() else "it has no negatives"
        raise UsageError(f"there is nothing to label in run '{run.name}': {why}", "name another with --run")
    predicted, weight = chance[rows], query_weights(table["query_no"].to_numpy(), is_negative)[rows]
    design = Design.of(predicted, config.labels)
    drawn = design.draw(config.seed)
    strata = Strata(
        negatives=design.population.tolist(),
        predicted=_means(design, predicted),
        weighted=_means(design, predicted * weight),
        judged=int((is_negative & judged).sum()),
    )
    key = sha256(f"{run.run_id} {config.seed} {config.labels}".encode()).hexdigest()[:12]
    sample = StoredSample(key, run.run_id, config.seed, config.labels, strata)
    pairs = table.take(rows[drawn]).select(["query_id", "doc_id"])
    columns = {
        "position": pa.array(np.arange(len(drawn)), pa.int32()),
        "stratum": pa.array(design.stratum[drawn], pa.int32()),
        "predicted": predicted[drawn],
        "weight": weight[drawn],
    }
    for name, values in columns.items():
        pairs = pairs.append_column(name, pa.array(values))
    stored.keep_sample(store, sample, pairs)
    to_label = stored.sampled_pairs(store, sample, texts=True).select(list(COLUMNS))
    if out is not None:
        write_sample(to_label, out)
    return LabelSample(
        run=run.name,
        negatives=int(is_negative.sum()),
        judged=strata.judged,
        pairs=to_label,
        widths={rate: design.expected_width(predicted, rate) for rate in LIKELY},
        plain_widths={rate: plain_width(rate, len(drawn), len(predicted)) for rate in LIKELY},
        needed=_needed(predicted),
    )


def _needed(predicted: Floats) -> dict[float, int]:
    """Returns the least of _NUMBERS with an expected width of at most NARROW, for each likely rate."""
    found = dict.fromkeys(LIKELY, len(predicted))
    for number in [number for number in reversed(_NUMBERS) if number < len(predicted)]:
        design = Design.of(predicted, number)
        fitting = [rate for rate in LIKELY if design.expected_width(predicted, rate) <= NARROW]
        if not fitting:
            break
        found |= dict.fromkeys(fitting, number)
    return found


def _means(design: Design, values: Floats) -> list[float]:
    totals = np.bincount(design.stratum, values, len(design.population))
    return [float(value) for value in totals / design.population]


def keep_labels(store: Database, run: StoredRun, source: Path | Any, note: Any = None) -> FalseNegativeRate:
    """Reads the labels of a run's sample, stores them, and returns the false-negative rate by them.

    `source` is the file that `draw_sample` wrote, filled in, or a table with its columns. Rows without a
    relevance count as not labelled; a label that was read from the same file before is removed. `note` is
    called with what a person should know about the rows. Raises UsageError if the run has no sample, or if
    its labels are stored but give no rate yet; InputError for a row that is not of a sample or has no number,
    or if nothing is labelled, and the store is then unchanged.
    """
    if not stored.samples_of(store, run):
        raise _no_sample(store, run)
    table = open_labels(source)
    labels, empty = read_labels(table, store, run)
    changed, removed = stored.keep_labels(store, labels, Path(table.origin).name, empty)
    if note is not None and changed:
        note(f"{counted(changed, 'pair')} had another relevance before: the new one counts")
    if note is not None and removed:
        note(
            f"{counted(removed, 'label')} of an earlier reading of this file removed: the cells are empty now"
        )
    result = false_negative_rate(store, run)
    if result is None:
        raise UsageError(
            f"the labels are stored, but give no false-negative rate of run '{run.name}' yet: its sample had "
            "them when it was drawn, from other runs, so they are not drawn at random",
            "label the other rows too, from the top, and read the file again",
        )
    return result


def false_negative_rate(store: Database, run: StoredRun) -> FalseNegativeRate | None:
    """Returns the false-negative rate of a run by the labels in the store, and stores it; None without any.

    The sample with the most labels counts, see `store.labels.labelled_sample`. Pairs without a label are
    treated as if they had not been drawn. If a judge graded the whole sample, or all negatives of the run,
    its grades serve as predictions (`auditing.graded`).
    """
    found = stored.labelled_sample(store, run)
    if found is None:
        return None
    sample, labelled = found
    drawn = stored.sampled_pairs(store, sample)
    predictions = judge_predictions(store, run, sample, drawn)
    result = _estimated(run, sample, labelled, drawn.num_rows, predictions)
    if not store.read_only:
        stored.keep_result(store, found[0], result.as_json())
    return result


def _estimated(
    run: StoredRun, sample: StoredSample, labelled: pa.Table, drawn: int, judge: JudgePredictions | None
) -> FalseNegativeRate:
    strata = sample.strata
    others = sum(strata.negatives)
    share = others / (others + strata.judged)
    weight = labelled["weight"].to_numpy()
    relevant = (labelled["relevance"].to_numpy() > 0).astype(np.float64)
    found = float(relevant.sum()) / (others + strata.judged)

    def _estimate(judge: JudgePredictions | None, is_weighted: bool) -> tuple[float, float, float]:
        means = np.asarray(strata.weighted if is_weighted else strata.predicted)
        predicted, by_judge, items = labelled["predicted"].to_numpy(), means, None
        if judge is not None:
            predicted, items = judge.of(labelled), judge.items
            by_judge = judge.weighted if is_weighted else judge.means
        known = Labelled(
            stratum=labelled["stratum"].to_numpy().astype(np.int64),
            relevant=relevant,
            predicted=predicted,
            weight=weight if is_weighted else np.ones_like(weight),
            population=np.asarray(strata.negatives, dtype=np.int64),
            mean_predicted=by_judge,
            predicted_items=items,
            mean_chance=means,
        )
        rate, low, high = (share * value for value in known.estimate())
        return (rate, low, high) if is_weighted else (max(found, rate), max(found, low), max(found, high))

    rate, low, high = _estimate(judge, is_weighted=False)
    per_query, per_query_low, per_query_high = _estimate(judge, is_weighted=True)
    sources = labelled["source"].value_counts().to_pylist()
    return FalseNegativeRate(
        run=run.name,
        rate=rate,
        low=low,
        high=high,
        per_query=per_query,
        per_query_low=per_query_low,
        per_query_high=per_query_high,
        labels=labelled.num_rows,
        relevant=int(relevant.sum()),
        unlabelled=drawn - labelled.num_rows,
        negatives=others + strata.judged,
        judged=strata.judged,
        sources={one["values"]: one["counts"] for one in sorted(sources, key=lambda one: str(one["values"]))},
        seed=sample.seed,
        judge=None if judge is None else judge.name,
        graded=0 if judge is None else judge.graded,
        without_judge=None if judge is None else _estimate(None, is_weighted=False),
    )


def _no_sample(store: Database, run: StoredRun) -> UsageError:
    others = stored.runs_with_samples(store)
    where = f"name its run with --run: {listed(others)}; or draw one" if others else "draw one"
    return UsageError(
        f"run '{run.name}' has no sample that these labels could belong to",
        f"{where}: miner audit {store.path} --run {run.name} --label 200 --out sample.csv. If the run was "
        "removed and mined again, the same --label N and seed draw the same sample again, for another --out",
    )
