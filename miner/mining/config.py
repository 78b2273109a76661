"""The settings of mining: one frozen configuration with every key, set by a recipe, flags or Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

from miner.errors import UsageError, near, shown
from miner.mining.presets import PRESET, with_preset
from miner.ranges import (
    BY_ENCODER,
    COUNT,
    DEPTH,
    DTYPES,
    FINITE,
    NATURAL,
    SHARE,
    Range,
    check_fields,
    known_keywords,
    literal,
    number,
    whole,
)  # fmt: skip
from miner.recipe import Tables, by_name, read, settings_of
from miner.retrieval.config import Bm25Config
from miner.retrieval.index import check_index

BM25 = "BM25"
"""The retriever without a model, as messages name it."""
EXCLUDE, ALLOW = "exclude", "allow"
"""What may become of chunks of a positive's document."""
REFERENCE_POSITIVES = ("lowest", "median", "best", "each")
STRATEGIES = ("top", "random", "ambiguous", "stratified", "mixed")


def key(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    kind: type = str,
    within: Range | None = None,
    by_encoder: bool = False,
) -> Any:
    """Returns a configuration key: its default, its text in `--help`, and the numbers that it accepts.

    `by_encoder` says that it may be a list of `SCORER=VALUE` texts, one for each encoder.
    """
    if within is not None:
        kind = int if within.is_whole else float
    metadata = {"help": help, "choices": choices, "kind": kind, BY_ENCODER: by_encoder}
    return field(default=default, metadata=metadata | ({} if within is None else {"range": within}))


DEFAULT_MARGIN = 0.05
"""The relative margin that is in force if no rule is named."""
_UNSET: Any = object()
"""A relative margin that was not named: DEFAULT_MARGIN, or none if another rule is named."""


@known_keywords
@dataclass(frozen=True)
class Rules:
    """The rules that drop candidates for their score or rank. The first rule that drops one is its reason.

    Naming a rule replaces the default rule: `Rules()` has a relative margin of 0.05, `Rules(percentile=5)`
    has a percentile and no margin, `Rules(relative_margin=None)` has no rule. Every field but
    `decide_by` and `reference_positive` is a rule. An object holds the rules in force, so
    `dataclasses.replace` keeps those that it does not name.
    """

    decide_by: str | None = key(None, "The scorer whose scores the rules look at [default: the last].")
    reference_positive: str = key(
        "lowest", "The positive of a query that margins are measured from.", REFERENCE_POSITIVES
    )
    skip_top: int = key(
        0, "Drop candidates that a retriever ranks this high or higher.", within=whole(0, 100_000)
    )
    max_rank: int | None = key(None, "Drop candidates that every retriever ranks below this.", within=COUNT)
    max_score: float | None = key(None, "Drop candidates that score above this.", within=FINITE)
    min_score: float | None = key(None, "Drop candidates that score below this.", within=FINITE)
    absolute_margin: float | None = key(
        None, "Drop candidates that score above the positive's score minus this.", within=FINITE
    )
    relative_margin: float | None = key(
        _UNSET,
        "Drop candidates that score within this fraction of the positive's score "
        f"[default: {DEFAULT_MARGIN:g}, or none with another rule].",
        within=number(-1e30, 1),
    )
    percentile: float | None = key(
        None,
        "Drop candidates above this percentile (0 to 100) of all positives' scores.",
        within=number(0, 100),
    )
    relative_percentile: float | None = key(
        None,
        "Drop candidates with F(score) > this × F(positive); F is the distribution of positives' scores.",
        within=FINITE,
    )

    agree: int | None = key(
        None,
        "Drop candidates unless this many scorers put them below the reference positive, each by its own "
        "percentile among the positives.",
        within=COUNT,
    )

    def __post_init__(self) -> None:
        if self.relative_margin is _UNSET:
            others = (getattr(self, name) != off for name, off in RULES.items() if name != "relative_margin")
            object.__setattr__(self, "relative_margin", None if any(others) else DEFAULT_MARGIN)
        check_fields(self)


_BASES = ("decide_by", "reference_positive")
"""The other fields of `Rules`: what the rules compare."""
RULES: dict[str, Any] = {
    f.name: 0 if f.name == "skip_top" else None for f in fields(Rules) if f.name not in _BASES
}
"""Every rule, with the value that turns it off."""


def named_rules(rules: Rules) -> dict[str, Any]:
    """Returns the values that a recipe has to name to get these rules, whatever rules were in force before.

    Rules that are off are left out, as the rules that a recipe names replace all others. If none is on, each
    is turned off by name.
    """
    values = {part.name: getattr(rules, part.name) for part in fields(Rules)}
    values = {name: value for name, value in values.items() if name != "decide_by" or value is not None}
    on = {name: value for name, value in values.items() if name not in RULES or value != RULES[name]}
    return on if any(name in RULES for name in on) else values


def with_rules(rules: Rules, values: Mapping[str, Any]) -> Rules:
    """Returns the rules with new values; if `values` turn a rule on, they replace all rules in force.

    Values that only turn rules off, or only name the scorer or the reference positive, leave the other rules
    in force.
    """
    replaces = any(name in RULES and value != RULES[name] for name, value in values.items())
    return replace(rules, **(RULES if replaces else {}) | dict(values))


def parse_quota(text: str) -> tuple[str, int]:
    """Returns the scorer and the number of a quota such as `bm25=2`; raises UsageError for another form."""
    name, _, number = text.rpartition("=")
    most = NATURAL.parse(number)
    if not name or most is None:
        raise UsageError(f"quota {literal(text)} is not SCORER=N", "write a scorer and a number: bm25=2")
    return name, int(most)


@known_keywords
@dataclass(frozen=True)
class Selection:
    """How negatives are selected from the kept candidates, and with which positives they are paired."""

    negatives: int = key(5, "Negatives per query.", within=whole(1, 10_000))
    strategy: str = key(
        "top",
        "Select the hardest, random ones, those near the positive (SimANS), ones spread evenly over the "
        "scores, or hard and easy ones.",
        STRATEGIES,
    )
    easy_share: float = key(
        0.4,
        "mixed: share of a query's negatives that are drawn at random from all but the hardest candidates.",
        within=SHARE,
    )
    ambiguous_a: float = key(
        1.0, "SimANS a: how strongly to prefer a difference of b.", within=number(0, 1_000_000)
    )
    ambiguous_b: float = key(
        0.0, "SimANS b: preferred difference from the positive's score.", within=number(-1_000_000, 1_000_000)
    )
    quota: tuple[str, ...] = key(
        (),
        "Per query, at most N negatives that a retriever ranks best: SCORER=N, such as bm25=2. Repeatable.",
        kind=tuple,
    )
    document_cap: int | None = key(
        None, "Select a document as a negative at most this often.", within=NATURAL
    )
    positives: str = key(
        "all", "Pair negatives with all positives, or with the best-scored.", ("all", "best")
    )
    seed: int = key(13, "Seed of every random choice.", within=whole(0, 2**63 - 1))

    def __post_init__(self) -> None:
        if isinstance(self.quota, str):
            object.__setattr__(self, "quota", (self.quota,))
        check_fields(self)
        names = [parse_quota(text)[0] for text in self.quota]
        if twice := [name for name in names if names.count(name) > 1]:
            given = " and ".join(text for text in self.quota if parse_quota(text)[0] == twice[0])
            raise UsageError(f"scorer '{shown(twice[0])}' has several quotas: {shown(given)}", "give one")


_WITH_STRATEGY = {"easy_share": "mixed", "ambiguous_a": "ambiguous", "ambiguous_b": "ambiguous"}
"""Settings of one strategy, which the others do not read."""


def idle_settings(selection: Selection) -> list[str]:
    """Returns the settings that have another value than their default, and that the strategy ignores."""
    return [
        part.name
        for part in fields(Selection)
        if _WITH_STRATEGY.get(part.name, selection.strategy) != selection.strategy
        and getattr(selection, part.name) != part.default
    ]


def require_used(selection: Selection, before: Mapping[str, Any] | None = None) -> None:
    """Raises UsageError for a setting that the strategy ignores, unless it is as it was before.

    `before` has the settings of the run whose strategy may have been replaced. The constructor does not check
    this, because a replaced strategy leaves the other settings as they are.
    """
    for name in idle_settings(selection):
        if before is None or before.get(name) != getattr(selection, name):
            strategy = _WITH_STRATEGY[name]
            raise UsageError(
                f"{name} has no effect without strategy {strategy}",
                f"choose that strategy, or leave it out: the strategy is {selection.strategy}",
            )


@known_keywords
@dataclass(frozen=True)
class MiningConfig:
    """All settings that the triplets depend on. Raises UsageError at construction for an invalid value."""

    split: str = key("train", "Mine the queries with positives in this split.")
    queries: int | None = key(None, "Mine a seeded sample of this many queries.", within=COUNT)
    depth: int = key(100, "Candidates per query and retriever.", within=DEPTH)
    bm25: bool = key(True, "Search with BM25.", kind=bool)
    bm25_backend: str = key("bm25s", "Whose BM25 formulas and constants.", ("bm25s", "rank-bm25"))
    bm25_variant: str | None = key(
        None,
        "BM25 formula: lucene, robertson, atire, bm25l, bm25+; with rank-bm25: okapi, bm25l, bm25+ "
        "[default: lucene, or okapi].",
    )
    bm25_k1: float = key(1.2, "BM25 term saturation.", within=number(0, 1000))
    bm25_b: float = key(0.75, "BM25 length normalisation.", within=SHARE)
    stemmer: str = key("english", "Snowball stemmer for BM25, or none.")
    stopwords: str = key("english", "Language of the stop words that BM25 ignores, or none.")
    encoder: Sequence[str] = key(
        (),
        "Encoder that finds candidates: hub id, folder, bundled, or URL#MODEL of a server. Repeatable.",
        kind=tuple,
    )
    encoder_revision: str | Sequence[str] | None = key(
        None, "Branch, tag or commit of a hub encoder.", by_encoder=True
    )
    dimension: int | Sequence[str] | None = key(
        None,
        "Use the first numbers of an encoder's vectors only (Matryoshka): of every dense one, or of SCORER.",
        within=COUNT,
        by_encoder=True,
    )
    token_dtype: str = key(
        "fp32",
        "Precision of the cached token vectors of a multi-vector encoder. fp16: half the size, and scores "
        "that differ by up to 0.03 %.",
        ("fp32", "fp16"),
    )
    vectors: Sequence[str] = key(
        (), "Folder with vectors of the documents and queries, by id. Repeatable.", kind=tuple
    )
    candidates: Sequence[str] = key(
        (),
        "Candidates of another retriever: a TREC run, a table, or a set with scores. Repeatable.",
        kind=tuple,
    )
    dtype: str = key("auto", "Model precision. auto: bf16 if the hardware supports it, else fp32.", DTYPES)
    query_prompt: str | Sequence[str] | None = key(
        None, "Text before every query, for the encoder [default: the model's].", by_encoder=True
    )
    document_prompt: str | Sequence[str] | None = key(
        None, "Text before every document, for the encoder [default: the model's].", by_encoder=True
    )
    index: str = key("Flat", "Flat (exact), or a FAISS factory string such as IVF1024,SQfp16.")
    reranker: Sequence[str] = key(
        (),
        "Reranker that scores the candidates: hub id, folder, or URL#MODEL of a server. Repeatable.",
        kind=tuple,
    )
    instruction: str | None = key(
        None, "Instruction for rerankers that take one, in place of their own prompt."
    )
    reranker_revision: str | None = key(None, "Branch, tag or commit of a hub reranker.")
    rerank: str = key(
        "all",
        "adaptive: with strategy top, the reranker that decides scores candidates by fused rank, in rounds, "
        "until each query has its negatives; it is faster, and keeps somewhat more false negatives.",
        ("all", "adaptive"),
    )
    rerank_depth: int | None = key(
        None, "Rerank and keep only this many candidates, by fused rank.", within=DEPTH
    )
    cascade_depth: int | None = key(
        None,
        "With several rerankers, each later one scores this many candidates per query, the best by the one "
        "before it [default: all].",
        within=DEPTH,
    )
    overlaps: bool = key(
        True, "Exclude documents that contain a positive or are contained in one.", kind=bool
    )
    same_document: str = key(
        EXCLUDE, "Chunks of the same document as a positive: exclude them, or allow them.", (EXCLUDE, ALLOW)
    )
    protected: tuple[str, ...] = key(
        (), "Ids of documents that are never negatives; @FILE reads one id per line.", kind=tuple
    )
    rules: Rules = field(default_factory=Rules)
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        for name in SEVERAL:
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                object.__setattr__(self, name, () if value is None else (value,))
        check_fields(self)
        for part in fields(self) if len(self.encoder) > 1 else ():
            value = getattr(self, part.name)
            if part.metadata.get(BY_ENCODER) and isinstance(value, str) and "=" in value:
                object.__setattr__(self, part.name, (value,))
        check(self)

    @property
    def bm25_config(self) -> Bm25Config:
        """The settings of BM25."""
        variant = self.bm25_variant or ("okapi" if self.bm25_backend == "rank-bm25" else "lucene")
        return Bm25Config(self.bm25_backend, variant, self.bm25_k1, self.bm25_b, self.stemmer, self.stopwords)


SEVERAL = ("encoder", "vectors", "candidates", "reranker")
"""The settings that name scorers; one text stands for a list of one, None for an empty list."""
TABLES: Tables = {
    "": settings_of(MiningConfig),
    "rules": settings_of(Rules),
    "selection": by_name(PRESET) | settings_of(Selection),
}
"""Every key of a mining recipe, by the table that holds it. `for` stands for the values of its preset."""
OF_TRAINING = ("training",)
"""The table of a recipe of `miner tune` that mining does not read."""
_TABLE_OF = {key: table for table, settings in TABLES.items() for key in settings if key != PRESET.name}


def check(config: MiningConfig) -> None:
    """Raises UsageError for an invalid value, with the key and the values that it accepts."""
    rules = config.rules
    if not (config.bm25 or config.encoder or config.vectors or config.candidates):
        raise UsageError(
            "there is nothing to search with", "name an encoder, vectors or candidates, or leave BM25 on"
        )
    for name in ("encoder_revision", "query_prompt", "document_prompt"):
        if isinstance(getattr(config, name), str) and len(config.encoder) > 1:
            raise UsageError(
                f"{name} is for one encoder, and {len(config.encoder)} are named",
                f"write it for each encoder that needs one: {_form(config, name)}",
            )
    if config.reranker_revision is not None and len(config.reranker) > 1:
        raise UsageError(
            f"reranker_revision is for one reranker, and {len(config.reranker)} are named", "leave it out"
        )
    check_index(config.index)
    depth, next_depth = config.rerank_depth, config.cascade_depth
    if depth is not None and next_depth is not None and next_depth > depth:
        raise UsageError(
            f"cascade_depth must be at most rerank_depth ({depth:,}), got {next_depth:,}",
            "a later reranker scores the best candidates of the one before it",
        )
    if rules.max_rank is not None and rules.max_rank <= rules.skip_top:
        raise UsageError(f"max_rank must be above skip_top ({rules.skip_top}), got {rules.max_rank}")
    if rules.min_score is not None and rules.max_score is not None and rules.min_score > rules.max_score:
        raise UsageError(f"min_score must be at most max_score ({rules.max_score}), got {rules.min_score}")
    _check_effects(config)


def _form(config: MiningConfig, name: str) -> str:
    """Returns how to give the first encoder a setting of its own."""
    from miner.models.names import scorer_name  # which `miner --help` does not need

    return f"--set {quote(f'{name}={scorer_name(config.encoder[0])}=VALUE')}"


def _check_effects(config: MiningConfig) -> None:
    """Raises UsageError for a setting that would have no effect."""
    for_encoder = ("encoder_revision", "query_prompt", "document_prompt", "dimension", "token_dtype")
    for_reranker = ("reranker_revision", "rerank", "rerank_depth", "instruction")
    for_bm25 = ("bm25_backend", "bm25_variant", "bm25_k1", "bm25_b", "stemmer", "stopwords")
    groups: tuple[tuple[object, str, tuple[str, ...]], ...] = (
        (config.bm25, BM25, for_bm25),
        (config.encoder, "an encoder", for_encoder),
        (config.encoder or config.vectors, "an encoder or vectors", ("index",)),
        (config.reranker, "a reranker", for_reranker),
        (len(config.reranker) > 1, "a second reranker", ("cascade_depth",)),
    )
    for present, what, names in groups:
        if not present:
            require_default(config, names, what)


def require_default(config: MiningConfig, names: Sequence[str], what: str) -> None:
    """Raises UsageError if one of the settings is not its default: they have no effect without `what`."""
    for part in fields(config):
        if part.name in names and getattr(config, part.name) != part.default:
            how = "leave BM25 on" if what == BM25 else f"add {what}"
            raise UsageError(f"{part.name} has no effect without {what}", f"{how}, or leave {part.name} out")


def read_recipe(path: Path) -> dict[str, Any]:
    """Returns the keys and values of a TOML recipe, including those of `[rules]` and `[selection]`.

    The values of a preset replace the key `for`; those that the recipe names go over them.
    A table `[training]` is for `miner train` and is not read. Raises UsageError with the file for an unknown
    key, and the nearest known one, or for a value of the wrong kind.
    """
    return flat(read(path, TABLES, OF_TRAINING))


def flat(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the values of the tables of a mining recipe in one mapping; no key is in two of them.

    The values of a preset replace the key `for`, under all that are named.
    """
    return with_preset({key: value for table in TABLES for key, value in values[table].items()})


def with_values(config: MiningConfig, values: Mapping[str, Any]) -> MiningConfig:
    """Returns the configuration with flat keys replaced; the text `none` means None.

    Rules are replaced as in `with_rules`. Raises UsageError for a value of the wrong kind.
    """
    parts: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    for name, value in values.items():
        if name not in _TABLE_OF:
            raise UsageError(f"unknown key '{name}'{near(name, _TABLE_OF)}", f"keys: {', '.join(_TABLE_OF)}")
        parts[_TABLE_OF[name]][name] = TABLES[_TABLE_OF[name]][name].check(value)
    return replace(
        config,
        rules=with_rules(config.rules, parts["rules"]),
        selection=replace(config.selection, **parts["selection"]),
        **parts[""],
    )
