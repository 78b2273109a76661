"""Making queries from documents: a language model writes them, and a search and a comparison filter them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from miner.asking.cost import Prices, TokenUse
from miner.asking.keeping import Keeper
from miner.asking.send import Asking, answered, estimate
from miner.collection.collection import seeded_sample
from miner.curation.near import WordSets, near_pairs
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, counted
from miner.generation.config import GenerationConfig
from miner.generation.questions import queries_in, question
from miner.generation.round_trip import Ranks, ranks_of_sources
from miner.models.chat import ChatAnswer, ChatModel
from miner.models.names import scorer_name
from miner.reporting.readable import Readable
from miner.store import generated as stored
from miner.store import judges
from miner.store.database import Database
from miner.store.generated import KEPT, OUTCOMES, SAME_QUERY
from miner.text import content_id, fingerprint, text_key, text_keys

_BLOCK = 1_000
"""Documents whose texts are read at a time."""
_TOKENS_OUT = 20
"""Tokens of a query in an answer: an estimate, for models that do not reason."""


@dataclass(frozen=True, repr=False)
class GenerationReport(Readable):
    """The queries that a language model wrote, and what became of them."""

    model: str
    """Its name."""
    documents: int
    """Documents to make queries from."""
    answered: int
    """Those with an answer that can be read."""
    unknown: int
    """Those whose answer cannot be read: nothing of it is stored as a query."""
    made: int
    """Queries in the answers."""
    kept: int
    """Queries that are in the store now."""
    dropped: Mapping[str, int]
    """Queries that were not kept, by reason: the keys of `store.generated.OUTCOMES`."""
    splits: Mapping[str, int]
    """Kept queries by split."""
    replaced: int
    """Queries of earlier calls that lost their place."""
    requests: int
    """Requests of this call."""
    tokens_in: int
    tokens_out: int
    money: float | None
    """What they cost; None without prices."""
    stopped: bool
    """Whether the budget ended the work before every document was asked about."""


@dataclass(frozen=True, repr=False)
class GenerationPlan(Readable):
    """What making queries would take."""

    documents: int
    requests: int
    tokens_in: int
    """Estimated from the length of the texts."""
    tokens_out: int
    money: float | None
    """What they would cost; None without prices."""
    host: str
    """Where the texts would go."""
    first: str
    """The first request in words: instructions and data; empty without any."""


def generate(
    store: Database,
    model: str,
    config: GenerationConfig,
    progress: Progress = SILENT,
    *,
    workers: int | None = None,
) -> GenerationReport:
    """Has a language model, `URL#MODEL`, write queries from documents; stores those that pass the filters.

    A query is kept if a search with it returns its document, and if no other query has nearly the same words.
    It becomes a query with one positive, of the source `generated`. The same call after a kill, or with other
    filters, asks only about documents that have no answer. If no query is kept, or a budget ended the work
    with fewer queries than the store has from an earlier call, the earlier ones stay. Raises UsageError for a
    store without documents and ModelError if the server does not answer; the answers until then are stored.
    """
    asker = _Asker.of(store, model, config, progress)
    asker.ask()
    written = _written(store, asker, config)
    ranks = _round_trip(store, written, config, workers, progress)
    found = _sorted_out(store, written, ranks, config, progress)
    of_query = _split_of(store, written, found, config)
    before = 0 if config.add else stored.generated_count(store)
    if asker.used.stopped and of_query and len(of_query) < before:
        progress.note(
            f"the budget ended the work after {counted(len(of_query), 'query', 'queries')}: the {before:,} "
            "of an earlier call stay until all documents have an answer"
        )
        of_query = {}
    splits = dict(sorted(Counter(of_query.values()).items()))
    kept = len(of_query)
    dropped = {name: found.count(name) for name in OUTCOMES if name != KEPT and name in found}
    origin = {
        "model": asker.model.model,
        "instructions": fingerprint(config.instructions),
        "queries": config.queries,
        "characters": config.characters,
        "documents": len(asker.sources),
        "unknown": written.unknown,
        "made": len(written.texts),
        "kept": kept,
        "dropped": dropped,
        "retrievers": list(ranks),
        "rank": config.rank,
        "returned_by": config.returned_by,
        "near": config.near,
        "seed": config.seed,
    }
    replaced = _store(store, asker, written, found, ranks, of_query, origin) if kept else 0
    if asker.used.cut:
        progress.note(
            f"{counted(asker.used.cut, 'document')} longer than {config.characters:,} characters: cut"
        )
    return GenerationReport(
        model=asker.model.model,
        documents=len(asker.sources),
        answered=written.answered,
        unknown=written.unknown,
        made=len(written.texts),
        kept=kept,
        dropped=dropped,
        splits=splits,
        replaced=replaced,
        requests=asker.used.requests,
        tokens_in=round(asker.used.tokens_in),
        tokens_out=round(asker.used.tokens_out),
        money=asker.used.money,
        stopped=asker.used.stopped,
    )


def plan(store: Database, model: str, config: GenerationConfig) -> GenerationPlan:
    """Returns what `generate` would send, without asking the server; raises UsageError as it does."""
    asker = _Asker.of(store, model, config, SILENT)
    usage, first = estimate(asker.askings(), asker.prices)
    return GenerationPlan(
        documents=len(asker.sources),
        requests=usage.requests,
        tokens_in=round(usage.tokens_in),
        tokens_out=round(usage.tokens_out),
        money=usage.money,
        host=asker.model.host,
        first="" if first is None else f"{first.system}\n\n{first.user}",
    )


@dataclass(frozen=True)
class _Asker:
    """A language model, and the documents to make queries from."""

    store: Database
    model: ChatModel
    generator: str
    """The key of the model with its settings, in the store."""
    sources: pa.Table
    """doc_id, document (the identity of its text)."""
    config: GenerationConfig
    used: TokenUse
    prices: Prices | None
    progress: Progress

    @classmethod
    def of(cls, store: Database, name: str, config: GenerationConfig, progress: Progress) -> _Asker:
        """Returns the model, and a sample of the documents; raises UsageError if there are none."""
        sources = stored.source_documents(store)
        if not sources.num_rows:
            raise UsageError(
                f"{store.path} holds no documents", f"ingest first: miner ingest {store.path} SOURCE"
            )
        if config.documents is not None and config.documents < sources.num_rows:
            chosen = seeded_sample(sources["doc_id"].to_pylist(), config.documents, config.seed)
            sources = sources.take(chosen)
        (prices,) = config.prices([scorer_name(name)])
        model = ChatModel(
            name, patience=config.patience, answer_seconds=config.answer_seconds, progress=progress
        )
        settings = {
            "instructions": config.instructions, "queries": config.queries, "characters": config.characters,
        }  # fmt: skip
        generator = stored.generator_of(store, config.identity(model.model), scorer_name(name), settings)
        used = TokenUse(money=None if prices is None else 0.0)
        return cls(store, model, generator, sources, config, used, prices, progress)

    def missing(self) -> pa.Table:
        """Returns the documents that the model was not asked about."""
        known = stored.answered_documents(self.store, self.generator, readable=self.config.again)
        known_here = np.isin(self.sources["document"].to_numpy(), known["document"].to_numpy())
        return self.sources.filter(pa.array(~known_here))

    def askings(self) -> Iterator[Asking[tuple[int, str]]]:
        """Yields the requests about `missing`, each for the identity and the id of a document."""
        instructions, rows = self.config.instructions, self.missing().to_pylist()
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            ids = [row["doc_id"] for row in block]
            _, texts = judges.texts(self.store, [], ids, self.config.characters + 1)
            for row in block:
                text = texts[row["doc_id"]]
                self.used.cut += len(text) > self.config.characters
                request = question(instructions, text[: self.config.characters])
                about = row["document"], row["doc_id"]
                yield Asking(about, request, _TOKENS_OUT * self.config.queries)

    def ask(self) -> None:
        """Asks about `missing`, and stores each answer when it comes."""
        missing, total = self.missing().num_rows, len(self.sources)
        if not missing:
            return
        self.progress.note(f"sending {counted(missing, 'document')} to {self.model.host}")
        with (
            self.progress.task("writing queries", total, total - missing, "documents") as advance,
            Keeper(stored.journal_of(self.store, self.generator)) as keeper,
            closing(self._answered(keeper)) as answers,
        ):
            for found in answers:
                advance(len(found))
                keeper.wait()

    def _answered(self, keeper: Keeper) -> Generator[list[tuple[tuple[int, str], ChatAnswer]], None, None]:
        def arrived(about: tuple[int, str], answer: ChatAnswer) -> None:
            """Puts an answer into the journal."""
            keeper.put(self._row(*about, answer))

        askings = self.askings()
        return answered(self.model, askings, self.config, self.used, arrived, self.prices, self.progress)

    def _row(self, document: int, doc_id: str, answer: ChatAnswer) -> dict[str, Any]:
        return {
            "document": document,
            "doc_id": doc_id,
            "queries": queries_in(answer, self.config.queries),
            "answer": answer.text,
            "failure": answer.failure or None,
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
        }


@dataclass(frozen=True)
class _Written:
    """Queries in the answers, in the order of their documents; the lists have one length."""

    texts: list[str]
    doc_ids: list[str]
    doc_keys: list[int]
    """The key of each document's text."""
    wholes: list[str]
    """The document that each is a chunk of, or itself."""
    query_ids: list[str]
    """The id of each text: texts that differ only in case and white space have one."""
    answered: int
    unknown: int


def _written(store: Database, asker: _Asker, config: GenerationConfig) -> _Written:
    sources = dict(
        zip(asker.sources["document"].to_pylist(), asker.sources["doc_id"].to_pylist(), strict=True)
    )
    answers = stored.queries_written(store, asker.generator, list(sources)).to_pylist()
    answers.sort(key=lambda row: sources[row["document"]])
    keys = stored.source_keys(store, list(sources.values()))
    texts, doc_ids, unknown = list[str](), list[str](), 0
    for row in answers:
        unknown += row["queries"] is None
        texts += row["queries"] or []
        doc_ids += [sources[row["document"]]] * len(row["queries"] or [])
    first: dict[int, str] = {}
    ids = [first.setdefault(text_key(text), content_id("g-", text)) for text in texts]
    of = [keys[doc] for doc in doc_ids]
    own, wholes = [key for key, _ in of], [whole for _, whole in of]
    return _Written(texts, doc_ids, own, wholes, ids, len(answers) - unknown, unknown)


def _round_trip(
    store: Database, written: _Written, config: GenerationConfig, workers: int | None, progress: Progress
) -> dict[str, Ranks]:
    """Returns the rank of each query's document by retriever; nothing without queries or the filter."""
    if config.rank is None or not written.texts:
        return {}
    texts = dict(zip(reversed(written.query_ids), reversed(written.texts), strict=True))
    ids = sorted(texts)
    queries = pa.table(
        {
            "query_id": ids,
            "text": [texts[one] for one in ids],
            "text_key": pa.array(text_keys(texts[one] for one in ids), pa.int64()),
            "label": pa.nulls(len(ids), pa.string()),
        }
    )
    pairs = pa.table({"query_id": written.query_ids, "doc_id": written.doc_ids})
    return ranks_of_sources(store, queries, pairs, config, workers, progress)


def _sorted_out(
    store: Database,
    written: _Written,
    ranks: Mapping[str, Ranks],
    config: GenerationConfig,
    progress: Progress,
) -> list[str]:
    """Returns what became of each query: a key of OUTCOMES."""
    found = [KEPT] * len(written.texts)
    for row, (text, key) in enumerate(zip(written.texts, written.doc_keys, strict=True)):
        if text_key(text) == key:
            found[row] = "is_document"
    if ranks:
        returned = np.array([rank > 0 for rank in ranks.values()])
        passes = returned.all(axis=0) if config.returned_by == "all" else returned.any(axis=0)
        for row in np.flatnonzero(~passes).tolist():
            found[row] = "not_returned" if found[row] == KEPT else found[row]
    first: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for row, pair in enumerate(zip(written.query_ids, written.doc_ids, strict=True)):
        if found[row] == KEPT and first.setdefault(pair[0], row) != row:
            found[row] = "near_duplicate" if pair in seen else SAME_QUERY
        seen.add(pair)
    for row in _near(store, written, list(first.values()), config, progress):
        found[row] = "near_duplicate"
    dropped = {written.query_ids[row] for row in first.values() if found[row] != KEPT}
    for row, query in enumerate(written.query_ids):
        if found[row] == SAME_QUERY and query in dropped:
            found[row] = "near_duplicate"
    return found


def _near(
    store: Database, written: _Written, rows: Sequence[int], config: GenerationConfig, progress: Progress
) -> Iterator[int]:
    """Yields the rows whose words are nearly those of another query of the store, or of an earlier row."""
    others = stored.other_queries(store, [written.query_ids[row] for row in rows], added=config.add)
    texts = [*others, *(written.texts[row] for row in rows)]
    pairs = near_pairs(WordSets(texts, folder=store.path.parent), config.near, progress)
    dropped: set[int] = set()
    for right, left in sorted(zip(pairs.right.tolist(), pairs.left.tolist(), strict=True)):
        if right >= len(others) and left not in dropped and right not in dropped:
            dropped.add(right)
            yield rows[right - len(others)]


def _split_of(
    store: Database, written: _Written, found: Sequence[str], config: GenerationConfig
) -> dict[str, str]:
    """Returns the split of each kept query: all that were written from one document, or from chunks of one,
    have the same, and so have documents with a query in common. With `add`, they stay in their split."""
    judged = [
        pair
        for pair, outcome in zip(zip(written.query_ids, written.wholes, strict=True), found, strict=True)
        if outcome in (KEPT, SAME_QUERY)
    ]
    earlier = stored.judged_sources(store) if config.add else []
    together = _together([*((query, whole) for query, whole, _ in earlier), *judged])
    own = {query: text_key(together[whole]) for query, whole in judged}
    known: dict[int, str] = {}
    for _, whole, split in earlier:
        known.setdefault(text_key(together[whole]), split)
    groups = set(own.values())
    if config.division is None or not own:
        splits = {group: known.get(group, config.split) for group in groups}
    else:
        kept = {group: split for group, split in known.items() if group in groups}
        splits = config.division.assign(groups, config.split, kept)
    return {query: splits[group] for query, group in own.items()}


def _together(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Returns, of the documents in pairs of a query and a document, the first of those that it is connected
    with by queries in common."""
    leader: dict[str, str] = {}
    first: dict[str, str] = {}

    def lead(doc: str) -> str:
        """Returns the first of a document's group, and shortens the way to it."""
        while leader[doc] != doc:
            leader[doc] = doc = leader[leader[doc]]
        return doc

    for query, doc in pairs:
        leader.setdefault(doc, doc)
        one, other = sorted((lead(first.setdefault(query, doc)), lead(doc)))
        leader[other] = one
    return {doc: lead(doc) for doc in leader}


def _store(
    store: Database,
    asker: _Asker,
    written: _Written,
    found: Sequence[str],
    ranks: Mapping[str, Ranks],
    splits: Mapping[str, str],
    origin: Mapping[str, Any],
) -> int:
    """Stores the kept queries and what became of all; returns how many of earlier calls were replaced."""
    rows = range(len(found))
    best = [min((int(rank[row]) for rank in ranks.values() if rank[row]), default=None) for row in rows]
    kept = [row for row in rows if found[row] == KEPT]
    queries = pa.table(
        {
            "query_id": [written.query_ids[row] for row in kept],
            "text": [written.texts[row] for row in kept],
            "text_key": pa.array(text_keys(written.texts[row] for row in kept), pa.int64()),
        }
    )
    judged = [row for row in rows if found[row] in (KEPT, SAME_QUERY)]
    judgments = pa.table(
        {
            "query_id": [written.query_ids[row] for row in judged],
            "doc_id": [written.doc_ids[row] for row in judged],
            "split": [splits[written.query_ids[row]] for row in judged],
        }
    )
    outcomes = pa.table(
        {
            "query_id": written.query_ids,
            "text": written.texts,
            "doc_id": written.doc_ids,
            "generator": [asker.generator] * len(found),
            "outcome": list(found),
            "rank": pa.array(best, pa.int32()),
        }
    )
    return stored.keep_queries(store, queries, judgments, outcomes, origin, added=asker.config.add)
