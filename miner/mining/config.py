"""How to mine: one frozen configuration, from a recipe file or from flags, every key in one place."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from miner.errors import UsageError, near
from miner.retrieval.config import Bm25Config

ANCHORS = ("lowest", "median", "best", "each")
STRATEGIES = ("top", "random", "ambiguous")
OFF = "off"
_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    tuple: "a list of ids",
}


def key(default: Any, help: str, choices: tuple[str, ...] = (), kind: type = str) -> Any:
    """A configuration key: its default, and what `--help` says of it."""
    return field(default=default, metadata={"help": help, "choices": choices, "kind": kind})


DEFAULT_MARGIN = 0.05
"""The relative margin that is in force where no rule is named."""
_UNSET: Any = object()
"""A relative margin that nobody named: it is DEFAULT_MARGIN, or off beside another rule."""


@dataclass(frozen=True)
class Rules:
    """Which candidates are dropped for their score or rank. The first rule that drops one is its reason.

    Naming a rule replaces the default rule: `Rules()` has a relative margin of 0.05, `Rules(percentile=5)`
    has a percentile and no margin, `Rules(relative_margin=None)` has no rule. Every field but `anchor` is a
    rule. An object holds the rules in force, so `dataclasses.replace` keeps those that it does not name.
    """

    anchor: str = key("lowest", "Which positive of a query margins are measured from.", ANCHORS)
    skip_top: int = key(0, "Drop a candidate that any retriever ranks this high or higher.", kind=int)
    max_rank: int | None = key(None, "Drop a candidate that every retriever ranks below this.", kind=int)
    max_score: float | None = key(None, "Drop above this score.", kind=float)
    min_score: float | None = key(None, "Drop below this score.", kind=float)
    absolute_margin: float | None = key(None, "Drop unless this much below the positive's score.", kind=float)
    relative_margin: float | None = key(
        _UNSET,
        "Drop candidates that score within this fraction of the positive's score "
        f"[default: {DEFAULT_MARGIN:g}, or off beside another rule].",
        kind=float,
    )
    percentile: float | None = key(
        None, "Drop above this percentile (0 to 100) of all positives' scores.", kind=float
    )
    relative_percentile: float | None = key(
        None, "Drop if F(score) > this × F(positive), F the distribution of positives' scores.", kind=float
    )

    def __post_init__(self) -> None:
        if self.relative_margin is _UNSET:
            others = (getattr(self, name) != off for name, off in RULES.items() if name != "relative_margin")
            object.__setattr__(self, "relative_margin", None if any(others) else DEFAULT_MARGIN)


RULES: dict[str, Any] = {
    f.name: 0 if f.name == "skip_top" else None for f in fields(Rules) if f.name != "anchor"
}
"""Every rule, with the value that turns it off."""


def with_rules(rules: Rules, values: Mapping[str, Any]) -> Rules:
    """Returns rules with other values; those that `values` turn on replace all that were in force.

    Values that only turn rules off, or name the reference positive, leave the other rules in force.
    """
    replaces = any(name in RULES and value != RULES[name] for name, value in values.items())
    return replace(rules, **(RULES if replaces else {}) | dict(values))


@dataclass(frozen=True)
class Selection:
    """Which of the kept candidates become negatives, and with which positives."""

    negatives: int = key(5, "Negatives per query.", kind=int)
    strategy: str = key("top", "Hardest first, at random, or near the positive (SimANS).", STRATEGIES)
    ambiguous_a: float = key(1.0, "SimANS a: how sharply to prefer the distance b.", kind=float)
    ambiguous_b: float = key(0.0, "SimANS b: the preferred score minus the positive's.", kind=float)
    bm25_quota: int | None = key(None, "At most this many negatives that BM25 ranked best.", kind=int)
    dense_quota: int | None = key(None, "At most this many negatives that the encoder ranked best.", kind=int)
    document_cap: int | None = key(None, "One document serves at most this often as a negative.", kind=int)
    positives: str = key("all", "Pair negatives with all positives, or the best-scored.", ("all", "best"))
    seed: int = key(13, "Seed of every random choice.", kind=int)


@dataclass(frozen=True)
class MiningConfig:
    """Everything that decides which triplets come out.

    Raises UsageError at construction when a value cannot be.
    """

    split: str = key("train", "Mine the queries with positives in this split.")
    queries: int | None = key(None, "Mine only this many of the queries, a seeded sample.", kind=int)
    depth: int = key(100, "Candidates per query and retriever.", kind=int)
    bm25: bool = key(True, "Search with BM25.", kind=bool)
    bm25_backend: str = key("bm25s", "BM25 implementation.", ("bm25s", "rank-bm25"))
    bm25_variant: str | None = key(
        None,
        "BM25 formula: lucene, robertson, atire, bm25l, bm25+; of rank-bm25: okapi, bm25l, bm25+ "
        "[default: lucene, or okapi].",
    )
    bm25_k1: float = key(1.2, "BM25 term saturation.", kind=float)
    bm25_b: float = key(0.75, "BM25 length normalisation.", kind=float)
    stemmer: str = key("english", "Snowball stemmer for BM25, or none.")
    stopwords: str = key("english", "Language of the stop words that BM25 leaves out, or none.")
    encoder: str | None = key(None, "Bi-encoder for dense candidates: hub id, folder, or bundled.")
    encoder_revision: str | None = key(None, "Branch, tag or commit of a hub encoder.")
    dtype: str = key(
        "auto", "Numbers models compute in; auto: bf16 where it is fast.", ("auto", "fp32", "bf16")
    )
    query_prompt: str | None = key(None, "Text before every query, for the encoder [default: the model's].")
    document_prompt: str | None = key(
        None, "Text before every document, for the encoder [default: the model's]."
    )
    index: str = key("Flat", "Flat (exact), or a FAISS factory string such as IVF1024,SQfp16.")
    reranker: str | None = key(None, "Cross-encoder that scores the candidates: hub id or folder.")
    reranker_revision: str | None = key(None, "Branch, tag or commit of a hub reranker.")
    rerank_depth: int | None = key(
        None, "Rerank, and keep, only this many candidates by fused rank.", kind=int
    )
    overlaps: bool = key(
        True, "Exclude a document that contains a positive or is contained in one.", kind=bool
    )
    protected: tuple[str, ...] = key((), "Ids of documents that are never negatives.", kind=tuple)
    rules: Rules = field(default_factory=Rules)
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        check(self)

    @property
    def bm25_config(self) -> Bm25Config:
        """The keys that BM25 reads."""
        variant = self.bm25_variant or ("okapi" if self.bm25_backend == "rank-bm25" else "lucene")
        return Bm25Config(self.bm25_backend, variant, self.bm25_k1, self.bm25_b, self.stemmer, self.stopwords)


SECTIONS = {"rules": Rules, "selection": Selection}
_TABLES = f"a recipe has the tables {' and '.join(f'[{name}]' for name in SECTIONS)}"


def check(config: MiningConfig) -> None:
    """Raises UsageError for a value that cannot be, naming the key and what it may be."""
    rules, selection = config.rules, config.selection
    if not config.bm25 and not config.encoder:
        raise UsageError("there is nothing to search with", "name an encoder, or leave BM25 on")
    _require(rules.anchor in ANCHORS, f"anchor '{rules.anchor}'", f"one of {', '.join(ANCHORS)}")
    _require(
        selection.strategy in STRATEGIES,
        f"strategy '{selection.strategy}'",
        f"one of {', '.join(STRATEGIES)}",
    )
    _require(selection.positives in ("all", "best"), f"positives '{selection.positives}'", "all or best")
    _require(config.dtype in ("auto", "fp32", "bf16"), f"dtype '{config.dtype}'", "auto, fp32 or bf16")
    _require(1 <= selection.negatives <= 10_000, f"negatives {selection.negatives}", "1 to 10000")
    _require(0 <= selection.seed < 1 << 63, f"seed {selection.seed}", "0 to 2**63 - 1")
    _require(1 <= config.depth <= 100_000, f"depth {config.depth}", "1 to 100000")
    _require(config.bm25_k1 >= 0, f"bm25_k1 {config.bm25_k1}", "0 or more")
    _require(0 <= config.bm25_b <= 1, f"bm25_b {config.bm25_b}", "0 to 1")
    _require(rules.skip_top >= 0, f"skip_top {rules.skip_top}", "0 or more")
    _require(
        rules.max_rank is None or rules.max_rank > rules.skip_top,
        f"max_rank {rules.max_rank} with skip_top {rules.skip_top}",
        "max_rank above skip_top",
    )
    _require(
        rules.percentile is None or 0 <= rules.percentile <= 100,
        f"percentile {rules.percentile}",
        "0 to 100",
    )
    _require(
        rules.relative_margin is None or rules.relative_margin <= 1,
        f"relative_margin {rules.relative_margin}",
        "a share of the positive's score, such as 0.3 for 30 %",
    )
    for part in (config, rules, selection):
        for name, value in vars(part).items():
            _require(not isinstance(value, float) or isfinite(value), f"{name} {value}", "a finite number")
    for name in ("rerank_depth", "queries"):
        value = getattr(config, name)
        _require(value is None or value >= 1, f"{name} {value}", "at least 1")
    for name in ("bm25_quota", "dense_quota", "document_cap"):
        value = getattr(selection, name)
        _require(value is None or value >= 0, f"{name} {value}", "0 or more")
    _require(
        rules.min_score is None or rules.max_score is None or rules.min_score <= rules.max_score,
        f"min_score {rules.min_score} with max_score {rules.max_score}",
        "min_score below max_score",
    )
    _check_effects(config)


def _check_effects(config: MiningConfig) -> None:
    """Raises UsageError for a setting that nothing would read."""
    selection = config.selection
    for_encoder = ("encoder_revision", "query_prompt", "document_prompt", "index")
    groups: tuple[tuple[object, str, Any, tuple[str, ...]], ...] = (
        (config.encoder, "an encoder", config, for_encoder),
        (config.reranker, "a reranker", config, ("reranker_revision", "rerank_depth")),
        (config.bm25, "BM25", selection, ("bm25_quota",)),
        (config.encoder, "an encoder", selection, ("dense_quota",)),
    )
    for present, what, part, names in groups:
        defaults = {f.name: f.default for f in fields(part)}
        idle = [name for name in names if getattr(part, name) != defaults[name]]
        if idle and not present:
            raise UsageError(f"{idle[0]} has no effect without {what}", f"add {what}, or leave it out")


def _require(holds: object, what: str, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{what} cannot be", f"use {allowed}")


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a TOML recipe: keys of MiningConfig, with `[rules]` and `[selection]` tables.

    Returns one flat mapping of key to value. Raises UsageError naming the file, an unknown key and
    the nearest known one, or a value of the wrong kind.
    """
    try:
        recipe = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"no recipe at {path}", "name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", "mend the TOML") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a TOML file") from error
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping) and name not in SECTIONS:
            raise UsageError(f"{path}: unknown table [{name}]{near(name, SECTIONS)}", _TABLES)
        if isinstance(value, Mapping):
            flat |= {k: _typed(_known(path, k, SECTIONS[name]), v, f"{path}: ") for k, v in value.items()}
        else:
            flat[name] = _typed(_known(path, name, MiningConfig), value, f"{path}: ")
    return flat


def _known(path: Path, name: str, section: type) -> str:
    names = [f.name for f in fields(section) if f.name not in SECTIONS]
    if name not in names:
        home = next((title for title, table in SECTIONS.items() if name in _names(table)), None)
        hint = f"write it under [{home}]" if home else f"keys: {', '.join(names)}"
        raise UsageError(f"{path}: unknown key '{name}'{near(name, names)}", hint)
    return name


def _names(section: type) -> set[str]:
    return {f.name for f in fields(section)}


def with_values(config: MiningConfig, values: Mapping[str, Any]) -> MiningConfig:
    """Returns the configuration with flat keys replaced; the text `off` means None.

    Rules are replaced as `with_rules` says. Raises UsageError for a value of the wrong kind.
    """
    parts: dict[str, dict[str, Any]] = {"rules": {}, "selection": {}, "": {}}
    for name, value in values.items():
        place = next((title for title, table in SECTIONS.items() if name in _names(table)), "")
        parts[place][name] = _typed(name, value)
    return replace(
        config,
        rules=with_rules(config.rules, parts["rules"]),
        selection=replace(config.selection, **parts["selection"]),
        **parts[""],
    )


def _typed(name: str, value: Any, where: str = "") -> Any:
    tables = (MiningConfig, *SECTIONS.values())
    known = {f.name: f for table in tables for f in fields(table) if f.name not in SECTIONS}
    if name not in known:
        raise UsageError(f"unknown key '{name}'{near(name, known)}", f"keys: {', '.join(known)}")
    kind, optional = known[name].metadata["kind"], "None" in str(known[name].type)
    if optional and value in (None, OFF):
        return None
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(map(str, value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UsageError(
            f"{where}{name} is {value!r}", f"give {_KINDS[kind]}{f' or {OFF!r}' if optional else ''}"
        )
    return value
