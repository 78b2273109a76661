"""The false-negative rate of a run, estimated from people's labels of a random sample of its negatives.

`draw_sample` draws the sample and writes it as a table to fill in; `keep_labels` reads it back and estimates.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.auditing.estimate import ESTIMATOR, Design, Labelled, plain_width
from miner.auditing.prediction import predicted_chance
from miner.engine.files import locked, replacing, require_file
from miner.errors import InputError, UsageError, listed, shown
from miner.ranges import LABELS, SEED, check_fields, known_keywords, within
from miner.reporting.readable import Readable
from miner.sources.config import SourceConfig
from miner.sources.delimited import open_delimited
from miner.sources.files import File, lines
from miner.sources.memory import table_of
from miner.sources.table import Table
from miner.sources.values import as_number
from miner.stats import with_interval
from miner.store import labels as stored
from miner.store.database import Database
from miner.store.labels import StoredSample, Strata
from miner.store.runs import StoredRun, runs

Floats = npt.NDArray[np.float64]

COLUMNS = ("query_id", "doc_id", "query", "document", "relevance")
"""The columns of a sample to label."""
_READ = ("query_id", "doc_id", "relevance")
LIKELY = (0.01, 0.05, 0.1, 0.2)
"""False-negative rates for which the expected width of the interval is reported."""
NARROW = 0.04
"""The width of an interval for which the number of labels is reported."""
_NUMBERS = [step * 2**power for power in range(14) for step in (50, 75)]
"""The numbers of labels that are tried for it."""
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that starts with one of these is a formula in a spreadsheet."""
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")

Pair = tuple[str, str]
"""A query_id and a doc_id."""


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
        from miner.auditing.report import sample_table  # which needs this module

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

    def __repr__(self) -> str:
        return f"False-negative rate of run '{self.run}': {self.interval}, {self.labels:,} labels"

    @property
    def interval(self) -> str:
        """The rate with its interval, in percent."""
        return with_interval(self.rate, self.low, self.high)

    def as_text(self) -> str:
        """Returns the table, as `miner audit` shows it."""
        from miner.auditing.report import label_table  # which needs this module

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
        _require_new(out)
    table = stored.predictable(store, run)
    chance = predicted_chance(table)
    is_negative, judged = table["negative"].to_numpy(), table["judged"].to_numpy()
    rows = np.flatnonzero(is_negative & ~judged)
    if not len(rows):
        why = "all of its negatives are judged already" if is_negative.any() else "it has no negatives"
        raise UsageError(f"there is nothing to label in run '{run.name}': {why}", "name another with --run")
    predicted, weight = chance[rows], _query_weights(table["query_no"].to_numpy(), is_negative)[rows]
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
        _write(to_label, out)
    return LabelSample(
        run=run.name,
        negatives=int(is_negative.sum()),
        judged=strata.judged,
        pairs=to_label,
        widths={rate: design.expected_width(predicted, rate) for rate in LIKELY},
        plain_widths={rate: plain_width(rate, len(drawn)) for rate in LIKELY},
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


def _query_weights(query: npt.NDArray[np.int64], is_negative: npt.NDArray[np.bool_]) -> Floats:
    """Returns how much each negative counts if every query with negatives counts the same; mean 1."""
    number = np.bincount(query[is_negative], minlength=int(query.max(initial=0)) + 1)
    queries = int((number > 0).sum())
    return np.asarray(is_negative.sum() / (queries * np.maximum(1, number[query])))


def _means(design: Design, values: Floats) -> list[float]:
    totals = np.bincount(design.stratum, values, len(design.population))
    return [float(value) for value in totals / design.population]


def keep_labels(store: Database, run: StoredRun, source: Path | Any, note: Any = None) -> FalseNegativeRate:
    """Reads the labels of a run's sample, stores them, and returns the false-negative rate by them.

    `source` is the file that `draw_sample` wrote, filled in, or a table with its columns. Rows without a
    relevance count as not labelled. `note` is called with what a person should know about the rows. Raises
    UsageError if the run has no sample, InputError for a row that is not of a sample or has no number, or if
    nothing is labelled. The store is then unchanged.
    """
    if not stored.samples_of(store, run):
        raise _no_sample(store, run)
    table = _table(source)
    labels = _read_labels(table, store, run)
    changed = stored.keep_labels(store, labels, Path(table.origin).name)
    if note is not None and changed:
        note(f"{changed:,} pairs had another relevance before: the new one counts")
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
    treated as if they had not been drawn.
    """
    found = stored.labelled_sample(store, run)
    if found is None:
        return None
    result = _estimated(run, *found, stored.sampled_pairs(store, found[0]).num_rows)
    if not store.read_only:
        stored.keep_result(store, found[0], result.as_json())
    return result


def _estimated(run: StoredRun, sample: StoredSample, labelled: pa.Table, drawn: int) -> FalseNegativeRate:
    strata = sample.strata
    others = sum(strata.negatives)
    share = others / (others + strata.judged)
    weight = labelled["weight"].to_numpy()
    relevant = (labelled["relevance"].to_numpy() > 0).astype(np.float64)

    def _estimate(weights: Floats, means: Sequence[float]) -> list[float]:
        known = Labelled(
            stratum=labelled["stratum"].to_numpy().astype(np.int64),
            relevant=relevant,
            predicted=labelled["predicted"].to_numpy(),
            weight=weights,
            population=np.asarray(strata.negatives, dtype=np.int64),
            mean_predicted=np.asarray(means),
        )
        return [share * value for value in known.estimate()]

    rate, low, high = _estimate(np.ones_like(weight), strata.predicted)
    found = float(relevant.sum()) / (others + strata.judged)
    rate, low, high = (max(found, value) for value in (rate, low, high))
    per_query, per_query_low, per_query_high = _estimate(weight, strata.weighted)
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
    )


def _no_sample(store: Database, run: StoredRun) -> UsageError:
    others = stored.runs_with_samples(store)
    where = f"name its run with --run: {listed(others)}; or draw one" if others else "draw one"
    return UsageError(
        f"run '{run.name}' has no sample that these labels could belong to",
        f"{where}: miner audit {store.path} --run {run.name} --label 200 --out sample.csv. If the run was "
        "removed and mined again, the same --label N and seed draw the same sample again, for another --out",
    )


def _require_new(out: Path) -> None:
    require_file(out)
    if out.suffix not in (".csv", ".tsv"):
        raise UsageError(f"a sample cannot be written to {out}", "end its name in .csv or .tsv")
    if out.exists():
        raise UsageError(
            f"{out} exists and may hold labels", f"read them with --labels {out}, or name another file"
        )


def _write(pairs: pa.Table, out: Path) -> None:
    """Writes the sample as a table to fill in; cells that a spreadsheet would run are quoted with `'`.

    A .csv begins with a byte order mark, without which spreadsheets read UTF-8 as another encoding.
    """
    encoding = "utf-8-sig" if out.suffix == ".csv" else "utf-8"
    with (
        locked(out),
        replacing(out, exists_ok=False) as partial,
        partial.open("w", newline="", encoding=encoding) as file,
    ):
        writer = csv.writer(file, delimiter="\t" if out.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in pairs.to_pylist():
            ids = [_written_id(row[name]) for name in ("query_id", "doc_id")]
            texts = [_quoted(row[name]) for name in ("query", "document")]
            relevance = "" if row["relevance"] is None else f"{row['relevance']:g}"
            writer.writerow([*ids, *texts, relevance])


def _quoted(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _written_id(identity: str) -> str:
    """Returns an id as a sample file has it: different ids differ there too."""
    return f"'{identity}" if identity.startswith((*_FORMULAS, "'")) else identity


def _table(source: Path | Any) -> Table:
    if not isinstance(source, Path):
        return table_of(source)
    if not source.is_file():
        raise InputError(
            f"{source}: no such file", "name the sample that miner audit --label wrote, filled in"
        )
    if source.suffix not in (".csv", ".tsv"):
        raise InputError(f"{source}: labels are read from .csv or .tsv files", "save it as .csv")
    file = File(source, str(source))
    first = next(lines(file), None)
    # Spreadsheets of countries with decimal commas separate the columns of a .csv with semicolons.
    semicolons = (
        source.suffix == ".csv" and first is not None and first.text.count(";") > first.text.count(",")
    )
    return open_delimited(file, SourceConfig(quoted=True), ";" if semicolons else "")


@dataclass(frozen=True)
class _SampledPairs:
    """The pairs of a run's samples, by their ids as a table of labels may have them."""

    pairs: Mapping[Pair, Pair]
    """By the ids as they are, and as a sample file has them."""
    unpadded: Mapping[Pair, set[Pair]]
    """By the ids without leading zeros, which spreadsheets remove from numbers."""

    @classmethod
    def of(cls, store: Database, run: StoredRun, *, written: bool) -> _SampledPairs:
        """Returns the pairs of a run; `written` says that the table is a file, whose ids are quoted."""
        tables = [stored.sampled_pairs(store, one) for one in stored.samples_of(store, run)]
        own = dict.fromkeys(
            pair
            for table in tables
            for pair in zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
        )
        exact = {(query.strip(), doc.strip()): (query, doc) for query, doc in own}
        quoted = {(_written_id(query).strip(), _written_id(doc).strip()): (query, doc) for query, doc in own}
        pairs = {**exact, **quoted} if written else {**quoted, **exact}
        unpadded: dict[Pair, set[Pair]] = {}
        for (query, doc), pair in pairs.items():
            unpadded.setdefault((_unpadded(query), _unpadded(doc)), set()).add(pair)
        return cls(pairs, unpadded)

    def alike(self, query_id: str, doc_id: str) -> set[Pair]:
        """Returns the pairs whose ids are those of a row, up to leading zeros."""
        return self.unpadded.get((_unpadded(query_id), _unpadded(doc_id)), set())

    def find(self, query_id: str, doc_id: str) -> Pair | None:
        """Returns the pair of a row; None if no pair, or more than one, could be it."""
        alike = self.alike(query_id, doc_id)
        return self.pairs.get((query_id, doc_id)) or (next(iter(alike)) if len(alike) == 1 else None)


def _unpadded(identity: str) -> str:
    return identity.lstrip("0") or "0" if identity.isdecimal() else identity


def _not_sampled(store: Database, run: StoredRun, where: str, pair: Pair, *, written: bool) -> InputError:
    """Returns the error for a pair that is in no sample of the run; it names the runs whose it is."""
    query_id, doc_id = pair
    what = f"{where}: query '{shown(query_id)}' and document '{shown(doc_id)}' are not in the sample"
    with_samples = stored.runs_with_samples(store)
    others = [
        one.name
        for one in runs(store)
        if one.name in with_samples and _SampledPairs.of(store, one, written=written).find(*pair)
    ]
    if others:
        return InputError(
            f"{what} of run '{run.name}'; these are labels of run {listed(others, ' or ')}",
            f"read them for that run: --run {listed(others, ' or ')}",
        )
    return InputError(
        what,
        "leave the rows as they were drawn; a spreadsheet may have changed ids that look like numbers: "
        "import the columns as text",
    )


def _read_labels(table: Table, store: Database, run: StoredRun) -> pa.Table:
    """Returns the labels of a table: query_id, doc_id, relevance; raises InputError for a wrong row.

    Names of columns are read in any case, and decimal commas as points.
    """
    named = {name.strip().lower(): name for name in table.columns} | {name: name for name in table.columns}
    missing = [name for name in _READ if name not in named]
    if missing:
        raise InputError(
            f"{table.origin}: no column {listed(missing)}; its columns: {table.listed}",
            "give the file that miner audit --label wrote, with the column relevance filled in",
        )
    written = table.unit == "bytes"
    sampled = _SampledPairs.of(store, run, written=written)
    found: dict[Pair, float] = {}
    rows: set[Pair] = set()
    for record in table.read([named[name] for name in _READ]):
        where = f"{table.origin}:{record.line}"
        if record.problem is not None:
            raise InputError(f"{where}: {record.problem[1]}", "mend the row")
        query_id, doc_id, text = ((value or "").strip() for value in record.values)
        if (query_id, doc_id) in rows and len(sampled.alike(query_id, doc_id)) > 1:
            raise InputError(
                f"{where}: query '{shown(query_id)}' and document '{shown(doc_id)}' occur twice, and the "
                "sample has ids that differ from these in leading zeros only",
                "a spreadsheet has removed the zeros: import the columns as text",
            )
        rows.add((query_id, doc_id))
        if not text:
            continue
        relevance = as_number(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
        if relevance is None:
            raise InputError(
                f"{where}: relevance '{shown(text)}' is not a number",
                "write 0 for not relevant, 1 for relevant, and nothing for not labelled",
            )
        pair = sampled.find(query_id, doc_id)
        if pair is None:
            raise _not_sampled(store, run, where, (query_id, doc_id), written=written)
        if found.setdefault(pair, relevance) != relevance:
            raise InputError(f"{where}: this pair has two different labels", "leave one of the rows")
    if not found:
        raise InputError(
            f"{table.origin}: no row has a relevance",
            "fill in the column relevance: 0 for not relevant, 1 for relevant",
        )
    pairs, values = list(found), list(found.values())
    return pa.table(
        {
            "query_id": pa.array([query for query, _ in pairs], pa.string()),
            "doc_id": pa.array([doc for _, doc in pairs], pa.string()),
            "relevance": pa.array(values, pa.float64()),
        }
    )
