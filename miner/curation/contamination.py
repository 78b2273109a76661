"""Evaluation texts that stand in the training data: the same, nearly the same, or in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from miner.curation.near import WordSets, near_pairs, words
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.ranges import ABOVE_0, NGRAM, check_fields, within
from miner.store import contamination as stored
from miner.store.database import Store
from miner.text import normalise

HOW = ("exact", "normalised", "near", "contained")
"""The same text; the same but for case and white space; nearly the same words; made of parts of one text.
A document's passage without its title counts as well as the whole."""


@dataclass(frozen=True)
class LeakageConfig:
    """What counts as a leak. UsageError for a value that cannot be."""

    split: str = "test"
    """Of the evaluation data."""
    threshold: float = within(0.9, ABOVE_0)
    """Least share of the words of either text that both have."""
    ngram: int = within(8, NGRAM)
    """Words in a row that make a part."""
    contained: float = within(0.8, ABOVE_0)
    """Least share of an evaluation text's parts that one training text holds."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Leak:
    """One evaluation text and the training text that is most like it."""

    side: str
    """`query` or `document` of the evaluation data."""
    id: str
    text: str
    how: str
    """One of HOW."""
    similarity: float
    """Of the words; for `contained` the share of the parts."""
    train_side: str
    train_id: str
    train_text: str


@dataclass(frozen=True)
class LeakageReport:
    """What `miner leakage` found."""

    evaluation: dict[str, int]
    """Texts looked for, per side."""
    training: int
    """Texts looked in."""
    leaks: tuple[Leak, ...]
    """One per evaluation text that leaks, by side and id."""
    train_ids: dict[str, tuple[str, ...]]
    """Every training text that any evaluation text is like, per side: what removing takes out."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns how many texts of each side leak, by HOW."""
        found = {side: dict.fromkeys(HOW, 0) for side in self.evaluation}
        for leak in self.leaks:
            found[leak.side][leak.how] += 1
        return found


def find_leakage(
    train: Store, evaluation: Store, config: LeakageConfig, progress: Progress = SILENT
) -> LeakageReport:
    """Looks for the evaluation texts of a split in another store's texts.

    In the same store, for its queries among the queries of its other splits: documents are shared there.
    Raises UsageError when the split holds no judgments.
    """
    with evaluation.snapshot():
        asked = stored.evaluation_texts(evaluation, config.split)
    if train is evaluation:
        asked = asked.filter(pa.array([side == "query" for side in asked["side"].to_pylist()]))
        known = stored.queries_elsewhere(train, config.split)
        if not known.num_rows:
            raise UsageError(
                f"{train.path} has no queries outside split '{config.split}'",
                "name another store with --against",
            )
    else:
        known = stored.all_texts(train)
    looked = _Texts.of(asked), _Texts.of(known)
    best: dict[int, tuple[int, float, int]] = {}
    hit: set[int] = set()
    for how, (own, other, similarity) in _matches(*looked, config, progress):
        own, other = looked[0].owner[own], looked[1].owner[other]
        hit.add(other)
        place = HOW.index(how)
        if own not in best or (place, -similarity, other) < (best[own][0], -best[own][1], best[own][2]):
            best[own] = place, similarity, other
    leaks = tuple(_leak(looked, own, *best[own]) for own in sorted(best))
    sides = [looked[0].side[own] for own in sorted(set(looked[0].owner))]
    ids = {
        side: tuple(known["id"][i].as_py() for i in sorted(hit) if looked[1].side[i] == side)
        for side in ("query", "document")
    }
    return LeakageReport(
        {side: sides.count(side) for side in dict.fromkeys(sides)}, len(set(looked[1].owner)), leaks, ids
    )


@dataclass(frozen=True)
class _Texts:
    """Texts by position; a document's passage without its title has a place of its own."""

    side: list[str]
    id: list[str]
    text: list[str]
    compared: list[str]
    """The text, or its passage."""
    key: list[int]
    """Of what is compared."""
    owner: list[int]
    """The place of the whole text."""

    @classmethod
    def of(cls, table: pa.Table) -> _Texts:
        """Takes a table of `stored.all_texts`."""
        names = ("side", "id", "text", "text_key", "start")
        side, identity, text, key, start = (table[name].to_pylist() for name in names)
        compared = [whole[first:] for whole, first in zip(text, start, strict=True)]
        owner = [place - (first > 0) for place, first in enumerate(start)]
        return cls(side, identity, text, compared, key, owner)


def _leak(looked: tuple[_Texts, _Texts], own: int, place: int, similarity: float, other: int) -> Leak:
    asked, known = looked
    return Leak(
        asked.side[own], asked.id[own], asked.text[own], HOW[place], similarity,
        known.side[other], known.id[other], known.text[other],
    )  # fmt: skip


_Match = tuple[str, tuple[int, int, float]]


def _matches(asked: _Texts, known: _Texts, config: LeakageConfig, progress: Progress) -> Iterator[_Match]:
    """Yields how an evaluation text (its position) is like a training text, each pair once or more."""
    places: dict[int, list[int]] = {}
    for place, key in enumerate(known.key):
        places.setdefault(key, []).append(place)
    for own, key in enumerate(asked.key):
        for other in places.get(key, ()):
            same = asked.compared[own] == known.compared[other]
            yield "exact" if same else "normalised", (own, other, 1.0)
    near = near_pairs(WordSets(known.compared), config.threshold, progress, WordSets(asked.compared))
    pairs = zip(near.right.tolist(), near.left.tolist(), near.similarity.tolist(), strict=True)
    for own, other, similarity in pairs:
        yield "near", (own, other, similarity)
    whole = [place for place, owner in enumerate(known.owner) if place == owner]
    for own, place, share in _contained(asked.compared, [known.text[i] for i in whole], config, progress):
        match = own, whole[place], share
        yield "contained", match


def _contained(
    asked: Sequence[str], known: Sequence[str], config: LeakageConfig, progress: Progress
) -> Iterator[tuple[int, int, float]]:
    """Evaluation texts of `ngram` words or more whose parts one training text holds."""
    parts = [_parts(text, config.ngram) for text in asked]
    owners: dict[str, list[int]] = {}
    for own, mine in enumerate(parts):
        for part in mine:
            owners.setdefault(part, []).append(own)
    with progress.task("looking for parts", len(known), unit="texts") as advance:
        for other, text in enumerate(known):
            shared: dict[int, int] = {}
            for part in _parts(text, config.ngram):
                for own in owners.get(part, ()):
                    shared[own] = shared.get(own, 0) + 1
            for own, number in shared.items():
                if number >= config.contained * len(parts[own]):
                    yield own, other, number / len(parts[own])
            advance(1)


def _parts(text: str, size: int) -> frozenset[str]:
    found = words(normalise(text))
    return frozenset(" ".join(found[start : start + size]) for start in range(len(found) - size + 1))


@dataclass(frozen=True)
class Removed:
    """What was taken out of a store."""

    texts: int
    judgments: int
    stay: int
    """Texts that leak and stay: what the store itself holds to evaluate on."""


def remove(train: Store, report: LeakageReport, split: str, same: bool = False) -> Removed:
    """Takes the training texts that leak out of the store, with their judgments. Call it in a transaction.

    What the store itself holds to evaluate on, in its own `split`, stays, without what is judged of it in
    other splits. Of the `same` store only the judgments go that such queries have in other splits.
    """
    queries, documents = set(report.train_ids["query"]), set(report.train_ids["document"])
    if same:
        judgments = stored.remove_judgments_elsewhere(train, sorted(queries), [], split)
        return Removed(0, judgments, 0)
    own = stored.held_for(train, split)
    kept_queries, kept_documents = queries & own["query"], documents & own["document"]
    gone = stored.remove_judgments_elsewhere(train, sorted(kept_queries), sorted(kept_documents), split)
    queries, documents = queries - kept_queries, documents - kept_documents
    gone += stored.remove_texts(train, sorted(queries), sorted(documents))
    return Removed(len(queries) + len(documents), gone, len(kept_queries) + len(kept_documents))
