"""The settings of judging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from miner.asking.answers import instructions_in
from miner.asking.cost import AskingConfig
from miner.mining.config import key
from miner.models.chat import FORMS
from miner.ranges import COUNT, NATURAL, known_keywords, whole
from miner.text import fingerprint

GRADED, COMPARED = "graded", "compared"
SAMPLED = "sampled"
OF = ("suspected", "selected", "both", SAMPLED)
RELEVANCE = "The document answers the query, or contains what someone who asks it wants to read."
_FIELD = "{relevance}"
_CODE = 1
"""The version of this code: a new number if the same answer gives another grade."""


@known_keywords
@dataclass(frozen=True)
class JudgeConfig(AskingConfig):
    """How a language model judges. Raises UsageError at construction for an invalid value.

    The grades depend on the first group of settings; a judge with other values has other answers.
    """

    form: str = key(
        GRADED,
        "graded: one document per request, relevance 0 to 3. compared: several documents beside the query's "
        "positives.",
        (GRADED, COMPARED),
    )
    prompt: str | None = key(None, "File with instructions for the model, in place of the ones for the form.")
    relevance: str = key(RELEVANCE, "What counts as relevant in this domain, in a sentence or two.")
    characters: int = key(8_000, "Characters of a document that the model reads.", within=whole(1, 1_000_000))

    of: str = key(
        "suspected",
        "Judge suspected positives, the selected negatives, both, or the sample that `miner audit --label` "
        "drew.",
        OF,
    )
    sample: int | None = key(
        None, "Judge a random sample of this many pairs, drawn with the seed.", within=COUNT
    )
    positives: bool = key(
        False,
        "graded: judge the known positives of these queries too; else they count as relevant, grade 2.",
        kind=bool,
    )
    together: int = key(10, "compared: documents in a request.", within=whole(1, 100))
    check: int = key(
        200,
        "Pairs with known relevance that the judge grades first, to measure its error; 0: none.",
        within=NATURAL,
    )
    again: bool = key(
        False,
        "Ask again about pairs whose answer could not be read, or that wait for the answer to a batch.",
        kind=bool,
    )
    batch_form: str = key(
        FORMS[0],
        "How --batch requests an answer: by JSON schema, as any JSON object, or by the instructions alone.",
        FORMS,
    )
    seed: int = key(13, "Seed of the samples and of the order of documents.", within=whole(0, 2**32 - 1))

    @property
    def instructions(self) -> str:
        """The instructions for the model; raises UsageError for a file that is not there or not UTF-8."""
        own = Path(__file__).parent / "prompts" / f"{self.form}.txt"
        return instructions_in(self.prompt, own).replace(_FIELD, self.relevance)

    def identity(self, model: str) -> str:
        """Returns the fingerprint of a judge: of everything that its grades depend on."""
        return fingerprint(
            {
                "judge": model,
                "form": self.form,
                "instructions": self.instructions,
                "characters": self.characters,
                "code": _CODE,
            }
        )
