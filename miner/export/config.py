"""The settings of an export, and whether they fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from miner.errors import UsageError, counted, near
from miner.export import dpr, flagembedding, tevatron, training
from miner.export.formats import Format, Shape
from miner.export.writers import FLAT, WRITERS
from miner.ranges import COUNT, check_fields, known_keywords, within
from miner.store.runs import StoredRun

FORMATS: Mapping[str, Format] = training.FORMATS | flagembedding.FORMATS | tevatron.FORMATS | dpr.FORMATS
"""Every format by name."""


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
    """How many negatives an n-tuple has; None: as many as the run requested."""
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


@dataclass(frozen=True)
class Plan:
    """The run, format and file type of an export, checked."""

    run: StoredRun
    name: str
    """The name of the format."""
    form: Format
    shape: Shape
    file_type: str

    @property
    def split(self) -> str:
        """The run's split as a name that `datasets` accepts."""
        return re.sub(r"\W", "_", self.run.split)

    @property
    def data(self) -> str:
        """The path of the data file, or of the folder for `datasets`, relative to the export."""
        return "data" if self.file_type == "datasets" else f"data/{self.split}.{self.file_type}"

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return self.form.schema(self.shape)


def plan_export(config: ExportConfig, run: StoredRun) -> Plan:
    """Returns the plan of exporting a run.

    Raises UsageError for settings that do not fit together.
    """
    form = FORMATS[config.format]
    shape = Shape(config.scores, _negatives(config, run), run.name)
    plan = Plan(run, config.format, form, shape, config.file_type or form.file_types[0])
    _require_file_type(plan)
    return plan


def _negatives(config: ExportConfig, run: StoredRun) -> int:
    if config.negatives_per_row is None:
        return run.negatives
    if config.format != "n-tuple":
        raise UsageError(
            f"negatives_per_row is for the format n-tuple, not {config.format}",
            "leave it out to export all",
        )
    if not 1 <= config.negatives_per_row <= run.negatives:
        raise UsageError(
            f"negatives_per_row must be between 1 and {run.negatives}, got {config.negatives_per_row}",
            f"run '{run.name}' was mined with {counted(run.negatives, 'negative')} per query",
        )
    return config.negatives_per_row


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
