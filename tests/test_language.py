"""Help, messages, docstrings and pages are plain English and use the words of docs/glossary.md.

`python -m tests.test_language [FILE …]` lists every phrase to rewrite, with its line.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted((ROOT / "miner").rglob("*.py"))
MORE_CODE = sorted(
    file for folder in ("tests", "benchmarks", "scripts") for file in (ROOT / folder).rglob("*.py")
)
"""Its names are checked, and the docstrings of benchmarks; not its other texts."""
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
DEMO = ROOT / "scripts" / "demo"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
)

_NOUNS = "seed|speed|need|feed|hundred|breed|embed|ten|seven|often|even|open|token|screen|children|women|men"
_IRREGULAR = "said|told|found|held|left|kept|made|met|built|sent|set|shown|known|drawn|done|gone|taken|given"
_TAKEN = "it|them|this|that|these|those|an?|the|every|all|each|its|their|one|[a-z]+s"
_UNDENIED = r"(?![^.;]*\b(not|neither|instead|other)\b)"
PHRASES = {
    # retired words: the glossary has the ones to use
    r"\bleak(s|y|ed|ing|age)?\b": "hidden-positive rate, or contamination",
    r"\breopen(s|ed|ing)\b": "restored",
    r"\bmaterial\b": "replay",
    r"--anchor\b|\banchor (lowest|median|best|each)\b": "reference positive",
    r"\b(keep|full|its|the|their|margin's|more|most) yield\b|\bkeep[-_]yield\b": "coverage",
    r"\basked for\b": "requested",
    r"(?<!--)\bhold-out\b": "withheld positives, held-out queries",
    r"\bwrong negatives?\b|\bnegatives? (is|are) wrong\b|\bwrong are (my|the) negatives\b": "false negatives",
    # the hidden-positive rate is a proxy: it is not a share of the negatives
    rf"\bhidden[- ]positives?\b{_UNDENIED}[^.;]{{0,60}}\b(is|are|means?|equals?|estimates?|gives?)"
    r"( how many| which)?( the| a)?( share| rate| number)?( of)?( the)?"
    r" (false[- ]negatives?|wrong|relevant)\b": "name what it is",
    rf"(?<!not )\bfalse[- ]negative rate\b{_UNDENIED}[^.;|]{{0,25}}"
    r"\b(by|from|with|in|of) hidden positives?\b": "name what it is",
    r"\b(wrong|false negatives?)\b[^.;|]{0,25}\((the )?hidden[- ]positive": "name what it is",
    # turns of phrase that need a second reading
    r"\bmay stand\b": "may be",
    r"\btold\b(?! apart)": "report, list, say",
    r"\btells?\b(?!.{0,60}\b(from|apart)\b)": "report, list, say",
    r"\b(stands?|stood|standing) (in|under|on|at|beside|below|above|there|together|where)\b": "occur, be",
    r"\bwhat is called\b": "name the thing",
    rf"\b(takes?|taken|took|taking)( ({_TAKEN}))?( [a-z]+){{0,4}} for"
    r" (an? |the |what |one\b|another\b|known|granted|copies|positives|negatives|judged|right|such)": "treat",
    r"\b(counted|said|asked|named|noted|hidden|measured|left) is (how|what|the|who)\b": "plain",
    r"(?-i:\bOf\b(?! course))": "a sentence does not begin with 'of'",
    r"(?-i:(?:^|(?<=[.!?] ))Where [^.!?,]*,(?! and\b))": "if",
    r"\bdrop unless\b": "drop candidates that …",
    r"\b(numbers|figures) (that |which )?models? computes? in\b": "model precision",
    r"\bnever hears? of\b|\bflatters?\b": "plain words",
    r"\b(wins?|won) (this|that|it|them|most of that)? ?back\b": "recall",
    r"\b(comes?|came|coming) back as\b": "are selected as",
    r"\b(in|takes?|taking|took) (the|its|their) place of\b": "replace, instead of",
    r"\b(held|holds?) (it |them |this |that )?against\b": "compare with",
    r"\bparted by\b": "separated by",
    r"(?<!here )\b(is|are|was|were) no (?!(longer|more|less|better|worse|different)\b)[a-z]+": "is not a",
    r"\bcannot be([;.,]| [-\d{'\"]|$)": "must be …, got …",
}
FIRST = re.compile(
    rf"^(?!(?:{_NOUNS})\b)(?:[a-z]+(?:ed|en)|{_IRREGULAR}) (?:is|are|was|were)\b", re.IGNORECASE
)
"""A participle and then "is": "Counted is how many …"."""
_COMPILED = [(re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in PHRASES.items()]

RETIRED = {
    "leak",
    "leaks",
    "leaked",
    "leakage",
    "told",
    "untold",
    "material",
    "reopening",
    "reopened",
    "yielded",
    "sides",
    "place",
    "asked",
}
"""Words that no name in the code has as a part."""
RETIRED_ALONE = {"bars", "full", "held", "judged.py"}
"""Words that are no name by themselves: bars of progress, a full part, and a held-out query are clear."""


class Finding(NamedTuple):
    """A phrase in a file, and what to write instead."""

    line: int
    phrase: str
    advice: str

    def __str__(self) -> str:
        return f"{self.line}: {self.phrase!r}: {self.advice}"


def findings(file: Path) -> list[Finding]:
    """Returns the phrases of a page or a module that are not plain; of a benchmark, in its docstrings."""
    content = file.read_text("utf-8")
    if file in BENCHMARKS:
        texts = _docstrings(content)
    elif file == DEMO:
        texts = ((1, message) for message in re.findall(r'\becho "([^"]+)"', content))
    else:
        texts = _texts_of_code(content) if file.suffix == ".py" else _texts_of_page(content)
    return sorted({finding for line, text in texts for finding in _in_text(line, text)})


def _in_text(line: int, text: str) -> Iterator[Finding]:
    flat = " ".join(re.sub(r"\S*\w\.(?:py|md|jsonl|svg|png)\b|\((?:was|were) [^)]*\)", "…", text).split())
    for pattern, advice in _COMPILED:
        for found in pattern.finditer(flat):
            around = flat[max(0, found.start() - 25) : found.end() + 25]
            yield Finding(line, around, advice)
    for sentence in re.split(r"(?<=[.!?:;]) ", flat):
        if FIRST.match(sentence):
            yield Finding(line, sentence[:60], "no participle at the start of a sentence")


def _texts_of_page(content: str) -> Iterator[tuple[int, str]]:
    """Yields paragraphs, list items and table rows, with their first line's number."""
    start, lines = 1, list[str]()
    for number, line in enumerate([*content.splitlines(), ""], 1):
        if not line.strip() or re.match(r"\s*([-|#>]|\d+\.|```)", line):
            if lines:
                yield start, "\n".join(lines)
            start, lines = number, []
        if line.strip():
            lines.append(re.sub(r"^\s*(?:[-*>#]+|\d+\.) ", "", line))


def _texts_of_code(content: str) -> Iterator[tuple[int, str]]:
    """Yields every docstring and every string literal of words, with its line; SQL is not prose."""
    tree = ast.parse(content)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if " " in text.strip() and not re.search(
            r"\b(SELECT|INSERT|CREATE|DELETE|UPDATE|JOIN|WHERE|FROM)\b", text
        ):
            for paragraph in re.split(r"\n\s*\n", text):
                yield node.lineno, paragraph


def _docstrings(content: str) -> Iterator[tuple[int, str]]:
    """Yields every paragraph of a docstring, with the line of what it documents."""
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                yield getattr(node, "lineno", 1), paragraph


def names(file: Path) -> set[str]:
    """Returns every name that a module defines: classes, functions, parameters, variables, itself."""
    found = {file.stem, file.name}
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.ClassDef(name=word) | ast.FunctionDef(name=word) | ast.arg(arg=word):
                found.add(word)
            case ast.Name(id=word, ctx=ast.Store()) | ast.Attribute(attr=word, ctx=ast.Store()):
                found.add(word)
    return found


def words(identifier: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower().split("_"))


def is_retired(identifier: str) -> bool:
    return bool(words(identifier) & RETIRED) or identifier.strip("_").lower() in RETIRED_ALONE


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", [*PAGES, *CODE, *BENCHMARKS, DEMO], ids=name)
def test_texts_are_plain(file: Path) -> None:
    assert [f"{name(file)}:{finding}" for finding in findings(file)] == []


@pytest.mark.parametrize("file", [*CODE, *MORE_CODE], ids=name)
def test_names_have_no_retired_word(file: Path) -> None:
    assert sorted(filter(is_retired, names(file))) == []


def test_a_class_name_is_used_once() -> None:
    named = Counter(
        node.name
        for file in CODE
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [one for one, times in named.items() if times > 1] == []


def test_the_glossary_defines_a_term_once() -> None:
    terms = re.findall(r"^\| ([^|]+?) \|", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert [term for term, times in Counter(terms).items() if times > 1 and term not in {"term", "---"}] == []


@pytest.mark.parametrize(
    "text",
    [
        "Counted is how many come back as negatives.",
        "Of a model nothing is known.",
        "Columns and splits that were not read are told.",
        "a copy of a positive is no negative",
        "Find evaluation texts that stand in the training data.",
        "mining takes a cluster for one document",
        "A source takes the id of a query for another document.",
        "Drop unless this share of the positive's score below it.",
        "Numbers models compute in; auto: bf16 where it is fast.",
        "percentile 120 cannot be; use 0 to 100",
        "the leak rate",
        "A title may stand for its text.",
        "Its rate flatters.",
        "The store is read. Where split `dev` is judged, the model is scored.",
        "Refused are models without a tokenizer.",
        "The hidden-positive rate is the share of false negatives.",
        "The hidden-positive rate of a run gives the false-negative rate.",
        "The false-negative rate from hidden positives is 1 %.",
        "1 % of the negatives are false negatives (hidden-positive rate).",
    ],
)
def test_a_text_that_is_not_plain_is_found(text: str) -> None:
    assert list(_in_text(1, text))


@pytest.mark.parametrize(
    "text",
    [
        "Reports the share of hidden positives that are selected as negatives.",
        "There is no difference; the column is no longer read.",
        "Where does it come from?",
        "A cross-encoder tells unjudged positives from hard negatives.",
        "Seed is the number that every random choice derives from.",
        "It takes 10 seconds for 1,000 queries and the first 5 of each.",
        "The training column `anchor`.",
        "see benchmarks/leak.py",
        "The hidden-positive rate is not the false-negative rate.",
        "False-negative rate: not measured. Hidden-positive rate: 1 %.",
    ],
)
def test_plain_text_passes(text: str) -> None:
    assert list(_in_text(1, text)) == []


if __name__ == "__main__":
    for path in [Path(given).resolve() for given in sys.argv[1:]] or [*PAGES, *CODE, *BENCHMARKS, DEMO]:
        for one in findings(path):
            sys.stdout.write(f"{name(path)}:{one}\n")
        for one in sorted(names(path) if path.suffix == ".py" else ()):
            if is_retired(one):
                sys.stdout.write(f"{name(path)}: the name {one}\n")
