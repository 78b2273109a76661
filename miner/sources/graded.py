"""Tables of graded pairs that many people have: their columns are known, so no option needs to name them.

- natural language inference: SNLI 1.0, MultiNLI 1.0, and what is published in their layout. `gold_label` is
  `-` where the annotators disagree; these rows and neutral ones are left out and counted;
- duplicate questions: Quora's question pairs (question1, question2, is_duplicate; in GLUE label);
- ESCI, Amazon's shopping queries (query, product_title, esci_label). `esci.py` reads its two files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from shlex import quote

from miner.errors import InputError, listed, shown
from miner.sources.config import NO_COLUMN, SourceConfig
from miner.sources.grades import ProposedMap, value_form
from miner.sources.table import Table
from miner.sources.values import as_number

_DEFAULTS = SourceConfig()
_LOOKED_AT = 1000
"""Rows of a table in which a known value has to occur."""
ESCI = {"E": 3.0, "S": 2.0, "C": 1.0, "I": 0.0}
"""The relevance of ESCI's labels: exact, substitute, complement, irrelevant."""
_ESCI_NAMES = {"Exact": 3.0, "Substitute": 2.0, "Complement": 1.0, "Irrelevant": 0.0}


@dataclass(frozen=True)
class GradedPairs:
    """The columns of tables of one kind, and what their values are worth."""

    format: str
    called: str
    pairs: tuple[tuple[str, str], ...]
    grades: tuple[str, ...]
    worth: tuple[Mapping[str, float], ...]
    """The relevance of each value, for each way to write them; an empty one for numbers."""

    def columns(self, table: Table) -> tuple[str, str, str] | None:
        """Returns the columns of query, document and grade; None if the table lacks one."""
        pair = next((pair for pair in self.pairs if set(pair) <= set(table.columns)), None)
        grade = next((name for name in self.grades if name in table.columns), None)
        return None if pair is None or grade is None else (*pair, grade)

    def worth_of(self, table: Table, column: str) -> Mapping[str, float] | None:
        """Returns the relevance of the column's values, empty for numbers; None for other values."""
        records = islice(table.read([column]), _LOOKED_AT)
        values = {value_form(one.values[0] or "") for one in records if one.problem is None}
        numbers = any(as_number(value) is not None for value in values)
        known = ((way, {value_form(value) for value in way}) for way in self.worth)
        return next((way for way, forms in known if values & forms or (not way and numbers)), None)


ESCI_PAIRS = GradedPairs("esci", "ESCI", (("query", "product_title"),), ("esci_label",), (ESCI, _ESCI_NAMES))
_KNOWN = (
    GradedPairs(
        "nli",
        "natural language inference",
        (("sentence1", "sentence2"), ("premise", "hypothesis")),
        ("gold_label", "label"),
        ({"entailment": 1.0, "contradiction": 0.0},),
    ),
    GradedPairs(
        "duplicates",
        "duplicate questions",
        (("question1", "question2"),),
        ("is_duplicate", "label"),
        ({}, {"duplicate": 1.0, "not_duplicate": 0.0}),
    ),
    ESCI_PAIRS,
)
GRADED_FORMATS = tuple(known.format for known in _KNOWN)


def is_known(table: Table) -> bool:
    """Returns whether a table has the columns of known pairs."""
    return any(known.columns(table) for known in _KNOWN)


def known_pairs(tables: Sequence[Table], config: SourceConfig) -> tuple[SourceConfig, str, str]:
    """Returns the configuration that names the columns of known tables, what they are called, and a note.

    Tables that are not known, or whose columns an option names, keep their configuration. Raises InputError
    if `format` says that they are known, and they lack the columns or the values.
    """
    said = config.format in GRADED_FORMATS
    for known in _KNOWN:
        if config.format != known.format and (said or config.format not in ("auto", "hf")):
            continue
        columns = known.columns(tables[0])
        if columns is not None and leaves_open(config, columns[2]):
            if any(known.columns(table) != columns for table in tables):
                continue
            worth = known.worth_of(tables[0], columns[2])
            if worth is not None:
                return _named(known, columns, worth, config)
    if said:
        known = next(one for one in _KNOWN if one.format == config.format)
        pairs = listed((" and ".join(pair) for pair in known.pairs), " or ")
        raise InputError(
            f"{tables[0].origin}: not {known.called}",
            f"it has {pairs}, and {' or '.join(known.grades)}; the columns here: {tables[0].listed}",
        )
    return config, "", ""


def leaves_open(config: SourceConfig, grade: str) -> bool:
    """Returns whether the options name no other columns than known ones."""
    return not replace(config, relevance_column=None, relevance_map=None).names_columns and (
        config.relevance_column in (None, NO_COLUMN, grade)
    )


def _named(
    known: GradedPairs, columns: tuple[str, str, str], worth: Mapping[str, float], config: SourceConfig
) -> tuple[SourceConfig, str, str]:
    query, document, grade = columns
    given = config.relevance_map
    chosen = replace(
        config,
        format="pairs",
        query_column=query,
        positive_column=document,
        relevance_column=config.relevance_column or grade,
        relevance_map=ProposedMap(worth)
        if given is None and worth and not config.relevance_column
        else given,
    )
    if not isinstance(chosen.relevance_map, ProposedMap):
        return chosen, known.called, ""
    values = ",".join(f"{value}={number:g}" for value, number in worth.items())
    note = (
        f"{shown(grade)}: {values}; rows with other values are left out (for other relevances: "
        f"--relevance-column {quote(grade)} --relevance-map {values})"
    )
    return chosen, known.called, note
