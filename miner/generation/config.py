"""The settings of making queries from documents."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from miner.asking.answers import instructions_in
from miner.asking.cost import AskingConfig
from miner.errors import UsageError
from miner.mining.config import MiningConfig, key
from miner.ranges import ABOVE_0, BELOW_1, COUNT, DEPTH, known_keywords, whole
from miner.store.division import Division
from miner.text import fingerprint

ABOUT = "People who need what the documents say. Some ask questions, some type a few keywords."
LANGUAGE = "the language of the document"
SEARCH = (
    "bm25", "bm25_backend", "bm25_variant", "bm25_k1", "bm25_b", "stemmer", "stopwords", "encoder",
    "encoder_revision", "dimension", "token_dtype", "dtype", "query_prompt", "document_prompt", "index",
)  # fmt: skip
"""The settings of mining that the search for a query's document reads."""
_CODE = 1
"""The version of this code: a new number if the same answer gives other queries."""


@known_keywords
@dataclass(frozen=True)
class GenerationConfig(AskingConfig):
    """How a language model writes queries, and which are kept. UsageError for an invalid value.

    What it writes depends on the first group of settings: with other values the documents are asked about
    again.
    """

    queries: int = key(3, "Queries per document.", within=whole(1, 50))
    prompt: str | None = key(None, "File with instructions for the model, in place of miner's own.")
    about: str = key(ABOUT, "Who searches these documents, and how, in a sentence or two.")
    language: str = key(LANGUAGE, "Language of the queries.")
    characters: int = key(8_000, "Characters of a document that the model reads.", within=whole(1, 1_000_000))

    documents: int | None = key(
        1_000, "Make queries from a random sample of this many documents, drawn with the seed.", within=COUNT
    )
    rank: int | None = key(
        10,
        "Keep a query only if a search with it returns its document at this rank or better.",
        within=DEPTH,
    )
    returned_by: str = key(
        "any", "With several retrievers: any of them has to return the document, or all.", ("any", "all")
    )
    near: float = key(
        0.8,
        "Drop a query if the Jaccard similarity of its words to another's is this or more.",
        within=ABOVE_0,
    )
    split: str = key("train", "Split of the queries.")
    dev: float = key(0.0, "Fraction of the documents whose queries go into split dev.", within=BELOW_1)
    test: float = key(0.0, "Fraction of the documents whose queries go into split test.", within=BELOW_1)
    add: bool = key(False, "Keep the queries of earlier calls too, instead of replacing them.", kind=bool)
    again: bool = key(False, "Ask again about documents whose answer could not be read.", kind=bool)
    seed: int = key(13, "Seed of the sample and of the splits.", within=whole(0, 2**32 - 1))
    search: MiningConfig = field(default_factory=MiningConfig)
    """The retrievers of the search, and their settings, named in SEARCH."""

    def __post_init__(self) -> None:
        super().__post_init__()
        default = MiningConfig()
        for part in fields(MiningConfig):
            if part.name not in SEARCH and getattr(self.search, part.name) != getattr(default, part.name):
                raise UsageError(
                    f"{part.name} has no effect on the search for a query's document", "leave it out"
                )
        if self.rank is None and self.search != default:
            raise UsageError(
                "settings of the search have no effect with rank=none", "leave them out, or give a rank"
            )
        if self.dev + self.test >= 1:
            raise UsageError(
                f"dev and test must leave queries to train on, got {self.dev:g} and {self.test:g}",
                "give fractions with a sum below 1",
            )

    @property
    def instructions(self) -> str:
        """The instructions for the model; raises UsageError for a file that is not there or not UTF-8."""
        text = instructions_in(self.prompt, Path(__file__).parent / "prompts" / "queries.txt")
        known = {"{number}": str(self.queries), "{about}": self.about, "{language}": self.language}
        for name, value in known.items():
            text = text.replace(name, value)
        return text

    @property
    def division(self) -> Division | None:
        """How to divide the documents into splits; None if all are in one."""
        return Division(self.dev, self.test, self.seed) if self.dev or self.test else None

    def identity(self, model: str) -> str:
        """Returns the fingerprint of everything that the queries of a document depend on."""
        return fingerprint(
            {
                "generator": model,
                "instructions": self.instructions,
                "queries": self.queries,
                "characters": self.characters,
                "code": _CODE,
            }
        )
