"""Finds copies among the texts of a store and stores them as clusters, one document each for mining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.collection.texts import Strings, Texts, spooled
from miner.curation.near import WordSets, near_pairs
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.ranges import ABOVE_0, check_fields, known_keywords, within
from miner.reporting.readable import Readable
from miner.store import duplicates as stored
from miner.store.corpus import ROLES
from miner.store.database import Database

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Links = tuple[Ints, Ints, Floats]
"""Pairs of positions and their similarity."""

HOW = ("exact", "near", "vectors")


@known_keywords
@dataclass(frozen=True)
class DedupConfig:
    """What counts as a copy. Raises UsageError for a value out of range."""

    threshold: float = within(0.9, ABOVE_0)
    """Least Jaccard similarity of the words of near copies."""
    punctuation: bool = False
    """Whether punctuation counts like words: for code."""
    encoder: str | None = None
    """Encoder that finds copies by their vectors too: hub id, folder, bundled, or URL#MODEL."""
    cosine: float = within(0.97, ABOVE_0)
    """Least cosine of the vectors of two copies."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.encoder is None and self.cosine != DedupConfig.cosine:
            raise UsageError("cosine has no effect without an encoder", "add --encoder, or leave cosine out")


@dataclass(frozen=True, repr=False)
class CopiesReport(Readable):
    """The copies among the documents, or among the queries."""

    texts: int
    clusters: int
    members: int
    """Number of texts in clusters."""
    how: dict[str, int]
    """Members by their strongest link: the same text or passage, nearly the same words, near vectors."""
    examples: tuple[tuple[str, str], ...]
    """Pairs of texts from the largest clusters."""


@dataclass(frozen=True, repr=False)
class DedupReport(Readable):
    """What `miner dedup` found."""

    documents: CopiesReport
    queries: CopiesReport
    crossings: tuple[tuple[str, str, int], ...]
    """Pairs of splits, with the number of clusters that have queries judged in both."""

    def __repr__(self) -> str:
        counts = [
            f"{found.clusters:,} clusters of {found.members:,} among {found.texts:,} {name}"
            for name, found in (("documents", self.documents), ("queries", self.queries))
        ]
        return f"Copies: {', '.join(counts)}"


def dedup(store: Database, config: DedupConfig, progress: Progress = SILENT) -> DedupReport:
    """Finds copies among the documents and among the queries, and replaces the clusters in the store.

    Two linked texts are in one cluster, and so are all texts that links connect. Raises UsageError for a
    store without texts, ModelError for an encoder that cannot be used.
    """
    keys = {role: stored.keys(store, role) for role in ROLES}
    if not any(table.num_rows for table in keys.values()):
        raise UsageError(f"{store.path} holds no texts", f"ingest first: miner ingest {store.path} SOURCE")
    tables, reports = {}, {}
    for role, table in keys.items():
        texts = spooled(stored.texts(store, role), store.path.parent)
        links = _links(store, table, texts, role, config, progress)
        tables[role], reports[role] = _clusters(table, texts, links)
    stored.replace_duplicates(store, tables, asdict(config))
    crossings = tuple(stored.split_crossings(store))
    return DedupReport(reports["documents"], reports["queries"], crossings)


def _links(
    store: Database, table: pa.Table, texts: Texts, role: str, config: DedupConfig, progress: Progress
) -> list[Links]:
    """Returns the links of each kind in HOW, between rows of the table."""
    keys = table["text_key"].to_numpy()
    filled = np.flatnonzero(keys != 0)
    _, first, copy = np.unique(keys[filled], return_index=True, return_inverse=True)
    leaders = filled[first]
    copies = leaders[copy] != filled
    exact = leaders[copy][copies], filled[copies], np.ones(int(copies.sum()))
    passages = table["passage_key"].to_numpy()[leaders]
    _, above, same = np.unique(passages, return_index=True, return_inverse=True)
    others = np.flatnonzero(above[same] != np.arange(len(leaders)))
    titled = leaders[above[same][others]], leaders[others], np.ones(len(others))
    read = Strings(texts.chosen(leaders), texts.block(store.memory))
    words = WordSets(read, config.punctuation, store.path.parent)
    near = near_pairs(words, config.threshold, progress)
    links = [_joined(exact, titled), (leaders[near.left], leaders[near.right], near.similarity)]
    if config.encoder is not None:
        left, right, cosine = vector_pairs(store, read, role, config.encoder, config.cosine, progress)
        links.append((leaders[left], leaders[right], cosine))
    return links


def vector_pairs(
    store: Database, texts: Sequence[str], role: str, model: str, cosine: float, progress: Progress = SILENT
) -> Links:
    """Returns the pairs of texts whose vectors have at least this cosine: left < right, ordered, cosines.

    Compares every pair. A text without a vector is in no pair. Vectors are cached beside the store. Raises
    ModelError for an encoder that cannot be used.
    """
    from miner.models.cached_encoder import CachedEncoder
    from miner.models.loading import open_encoder
    from miner.retrieval.nearest import pairs_above

    encoder = CachedEncoder(store.vectors, open_encoder(model, progress=progress), progress=progress)
    vectors = encoder(texts, "query" if role == "queries" else "document")
    encoder.note_truncated()
    # The threshold is a cosine, whatever the model's own similarity.
    return pairs_above(vectors, cosine, progress, store.memory.block)


def _joined(*links: Links) -> Links:
    left, right, similarity = (np.concatenate(column) for column in zip(*links, strict=True))
    return left, right, similarity


def _clusters(table: pa.Table, texts: Texts, links: Sequence[Links]) -> tuple[pa.Table, CopiesReport]:
    """Returns the clusters: id, cluster (its smallest id), how, and similarity of the strongest link."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = table.num_rows
    left = np.concatenate([one[0] for one in links])
    right = np.concatenate([one[1] for one in links])
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    how, similarity = np.full(size, len(HOW), dtype=np.int64), np.zeros(size)
    for kind in reversed(range(len(links))):
        for ends in links[kind][:2]:
            how[ends] = kind
    for kind, (*ends_of_links, value) in enumerate(links):
        for ends in ends_of_links:
            mine = how[ends] == kind
            np.maximum.at(similarity, ends[mine], value[mine])
    member = np.flatnonzero(how < len(HOW))
    first = np.full(size, size, dtype=np.int64)
    np.minimum.at(first, label, np.arange(size))
    leader = first[label[member]]
    found = pa.table(
        {
            "id": table["id"].take(pa.array(member)),
            "cluster": table["id"].take(pa.array(leader)),
            "how": pa.array([HOW[kind] for kind in how[member]], pa.string()),
            "similarity": similarity[member],
        }
    )
    counts = {name: int((how[member] == kind).sum()) for kind, name in enumerate(HOW)}
    report = CopiesReport(
        size,
        len(np.unique(leader)),
        len(member),
        {name: number for name, number in counts.items() if number},
        tuple(_examples(texts, member, leader)),
    )
    return found, report


def _examples(texts: Texts, member: Ints, leader: Ints, most: int = 3) -> list[tuple[str, str]]:
    numbers, counts = np.unique(leader, return_counts=True)
    largest = numbers[np.argsort(-counts, kind="stable")[:most]]
    pairs = [np.array([one, member[(leader == one) & (member != one)][0]]) for one in largest]
    return [(first, second) for first, second in (texts.of(pair).to_pylist() for pair in pairs)]
