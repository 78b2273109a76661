"""The settings of an export, and whether they fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from miner.errors import UsageError, counted, near
from miner.export import dpr, evaluation, flagembedding, ids, tevatron, training
from miner.export.formats import BINARY, LABELS, Format, Shape
from miner.export.writers import FLAT, WRITERS
from miner.ranges import COUNT, check_fields, known_keywords, require_one_of, within
from miner.store.runs import StoredRun

FORMATS: Mapping[str, Format] = (
    training.FORMATS
    | ids.FORMATS
    | evaluation.FORMATS
    | flagembedding.FORMATS
    | tevatron.FORMATS
    | dpr.FORMATS
)
"""Every format by name."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")


@known_keywords
@dataclass(frozen=True)
class ExportConfig:
    """The settings of an export."""

    run: str | None = None
    """The name of the run; None: the run that finished last."""
    format: str = "triplet"
    file_type: str | None = None
    """The type of the data file; None: the format's default, jsonl for most."""
    scores: bool = False
    """Whether to write the deciding scores beside the texts."""
    negatives_per_row: int | None = within(None, COUNT)
    """How many negatives a row of `n-tuple` or `scored` has; None: as many as the run requested."""
    labels: str = BINARY
    """What a positive's label is: binary (1) or grade (its relevance)."""
    include_positives: bool = False
    """Whether an evaluation row has all documents as they were ranked, instead of the negatives alone."""
    more_runs: tuple[str, ...] = ()
    """Runs of other splits, which become splits of a data set of ids."""
    language: tuple[str, ...] = ()
    """The languages of the texts for the card, as codes such as `en`."""
    license: str | None = None
    """The licence of the texts for the card, as the Hub names it, such as `cc-by-4.0`."""
    pretty_name: str | None = None
    """The title of the data set for the card; None: one with the name of the run."""
    source_datasets: tuple[str, ...] = ()
    """The data sets on the Hub that the texts are from, for the card."""
    force: bool = False
    """Whether to replace an earlier export in the same folder."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.format not in FORMATS:
            raise UsageError(
                f"unknown format '{self.format}'{near(self.format, FORMATS)}", f"one of {', '.join(FORMATS)}"
            )
        if self.file_type is not None and self.file_type not in WRITERS:
            raise UsageError(
                f"unknown file type '{self.file_type}'{near(self.file_type, WRITERS)}",
                f"one of {', '.join(WRITERS)}",
            )
        require_one_of("labels", self.labels, LABELS)
        for code in self.language:
            if not _LANGUAGE.fullmatch(code):
                raise UsageError(f"language is {code!r}", "give a code of the Hub, such as en or zh-Hant")

    @property
    def card(self) -> dict[str, Any]:
        """What the user says about the data set, by the Hub's names."""
        given = {
            "pretty_name": self.pretty_name,
            "language": list(self.language),
            "license": self.license,
            "source_datasets": list(self.source_datasets),
        }
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class RunPlan:
    """A run and the shape of its rows, checked."""

    run: StoredRun
    shape: Shape

    @property
    def split(self) -> str:
        """The run's split as a name that `datasets` accepts."""
        return split_name(self.run.split)


def split_name(split: str) -> str:
    """Returns a split's name as `datasets` accepts it."""
    return re.sub(r"\W", "_", split)


@dataclass(frozen=True)
class Plan:
    """The runs, format and file type of an export, checked."""

    runs: tuple[RunPlan, ...]
    """One run; in a data set of ids also one for each further split."""
    name: str
    """The name of the format."""
    form: Format
    file_type: str
    card: Mapping[str, Any]
    """What the user says about the data set, for the card."""

    @property
    def run(self) -> StoredRun:
        """The run that is exported, in a data set of ids the first."""
        return self.runs[0].run

    @property
    def shape(self) -> Shape:
        """The shape of its rows."""
        return self.runs[0].shape

    @property
    def split(self) -> str:
        """Its split as a name that `datasets` accepts."""
        return self.runs[0].split

    @property
    def data(self) -> str:
        """The path of the data file or folder relative to the export; empty for a data set of ids."""
        if self.form.selections:
            return ""
        return "data" if self.file_type == "datasets" else f"data/{self.split}.{self.file_type}"

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return self.form.schema(self.shape)


def plan_export(config: ExportConfig, run: StoredRun, more: Sequence[StoredRun] = ()) -> Plan:
    """Returns the plan of exporting a run, and in a data set of ids the runs of other splits.

    Raises UsageError for settings that do not fit together.
    """
    form = FORMATS[config.format]
    _require_settings_of(config, form)
    runs = tuple(RunPlan(one, _shape(config, one)) for one in (run, *more))
    plan = Plan(runs, config.format, form, config.file_type or form.file_types[0], config.card)
    _require_file_type(plan)
    _require_own_splits(runs)
    return plan


def _shape(config: ExportConfig, run: StoredRun) -> Shape:
    return Shape(config.scores, _negatives(config, run), run.name, config.labels, config.include_positives)


def _negatives(config: ExportConfig, run: StoredRun) -> int:
    if config.negatives_per_row is None:
        return run.negatives
    if not 1 <= config.negatives_per_row <= run.negatives:
        raise UsageError(
            f"negatives_per_row must be between 1 and {run.negatives}, got {config.negatives_per_row}",
            f"run '{run.name}' was mined with {counted(run.negatives, 'negative')} per query",
        )
    return config.negatives_per_row


def _require_settings_of(config: ExportConfig, form: Format) -> None:
    """Raises UsageError for a setting that the format does not have."""
    for name, given, fits in (
        ("negatives_per_row", config.negatives_per_row is not None, lambda one: bool(one.full_rows)),
        ("labels", config.labels != BINARY, lambda one: one.labels),
        ("include_positives", config.include_positives, lambda one: one.positions),
        ("more_runs", bool(config.more_runs), lambda one: bool(one.selections)),
    ):
        if given and not fits(form):
            known = _or(tuple(name for name, one in FORMATS.items() if fits(one)))
            raise UsageError(f"{name} is for the format {known}, not {config.format}", "leave it out")
    if config.scores and not form.scores:
        raise UsageError(f"--scores has no effect on the format {config.format}", "leave it out")
    if config.scores and config.labels != BINARY:
        raise UsageError("scores replace the labels, so labels has no effect", "leave one out")


def _require_own_splits(runs: Sequence[RunPlan]) -> None:
    """Raises UsageError if two runs would be the same split."""
    taken: dict[str, str] = {}
    for one in runs:
        if one.split in taken:
            raise UsageError(
                f"the runs '{taken[one.split]}' and '{one.run.name}' are both of the split {one.split}",
                "name one run for each split",
            )
        taken[one.split] = one.run.name


def _require_file_type(plan: Plan) -> None:
    chosen, able = plan.file_type, plan.form.file_types
    if chosen not in able:
        raise UsageError(
            f"the format {plan.name} cannot be written as {chosen}", f"choose --file-type {_or(able)}"
        )
    nested = [field.name for field in plan.schema if pa.types.is_nested(field.type)]
    if chosen in FLAT and nested:
        raise UsageError(
            f"{chosen} cannot contain the lists in {' and '.join(nested)} of the format {plan.name}",
            f"choose --file-type {_or(tuple(name for name in able if name not in FLAT))}",
        )


def _or(names: tuple[str, ...]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
