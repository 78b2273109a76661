"""Sending pairs to a language model: none twice, within a budget, every answer stored when it comes.

Questions are made in blocks of some thousand pairs, so that a million pairs take no more memory than their
ids. An answer is in a file before another request takes its place, and is committed in a thread of its own
(`asking.keeping`). After a kill only the requests that were under way are sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from miner.arrays import as_lists, as_numpy, group_sizes, slices
from miner.asking.cost import Prices, TokenUse
from miner.asking.keeping import Keeper
from miner.asking.send import Asking, answered, estimate
from miner.engine.progress import SILENT, Progress
from miner.judging.config import COMPARED, GRADED, JudgeConfig
from miner.judging.questions import SHOWN, QuestionTexts, grades, in_random_order, question
from miner.models.chat import ChatAnswer, ChatModel, Question
from miner.store import judges as stored
from miner.store.database import Database
from miner.store.judges import StoredJudge

Item = TypeVar("Item")

Positives = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]
"""Returns the positives of some queries that documents are compared with."""

_BLOCK = 4_000
"""Pairs whose texts are read at a time: each time reads all ids of the store."""
_TOKENS_OUT = {GRADED: 8, COMPARED: 14}
"""Tokens of an answer about one document, by form: an estimate, for models that do not reason."""
_ANSWERS = pa.schema(
    [
        ("query_id", pa.string()),
        ("doc_ids", pa.list_(pa.string())),
        ("pairs", pa.list_(pa.uint64())),
        ("grades", pa.list_(pa.int8())),
        ("answer", pa.string()),
        ("failure", pa.string()),
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
    ]
)


@dataclass(frozen=True)
class QuestionPairs:
    """The documents of one question, all of one query."""

    query_id: str
    doc_ids: Sequence[str]
    pairs: Sequence[int]
    """The identity of each pair."""


Answered = tuple[QuestionPairs, ChatAnswer]


@dataclass
class Asker:
    """A judge with its model, and what it has used so far."""

    store: Database
    judge: StoredJudge
    model: ChatModel
    config: JudgeConfig
    progress: Progress = SILENT
    used: TokenUse = field(default_factory=TokenUse)
    """What it has used, with the other models of a cascade."""
    prices: Prices | None = None

    def missing(self, pairs: pa.Table) -> pa.Table:
        """Returns the pairs (`stored.with_pairs`) that the judge was not asked about, each text pair once.

        Those that wait for the answer to a batch are not among them. With the setting `again` they are, and
        so are pairs whose answer could not be read.
        """
        return stored.unanswered(self.store, self.judge.judge, pairs, again=self.config.again)

    def groups(self, missing: pa.Table) -> Iterator[list[QuestionPairs]]:
        """Yields the questions about pairs by blocks of queries: one of each, or several in random order.

        `missing` is that of `missing`, or a part of it.
        """
        size = self.config.together if self.config.form == COMPARED else 1
        starts, counts = group_sizes(as_numpy(missing["query"]))
        for queries in slices(counts, _BLOCK):
            block = missing.slice(starts[queries.start], counts[queries].sum())
            by_query: dict[str, dict[str, int]] = {}
            columns = (block[name].to_pylist() for name in ("query_id", "doc_id", "pair"))
            for query, doc, pair in zip(*columns, strict=True):
                by_query.setdefault(query, {})[doc] = pair
            yield [
                QuestionPairs(query, part, [docs[doc] for doc in part])
                for query, docs in by_query.items()
                for part in _parts(in_random_order(list(docs), query, self.config.seed), size)
            ]

    def ask(self, pairs: pa.Table, positives: Positives, task: str) -> None:
        """Asks about the pairs that the judge was not asked about, and stores the answers.

        Stops when the budget is used. Raises what `ChatModel.answers` does; the answers that came before are
        stored.
        """
        missing = self.missing(pairs)
        finished = pairs.num_rows - missing.num_rows
        with (
            self.progress.task(task, pairs.num_rows, finished, "pairs") as advance,
            Keeper(stored.journal_of(self.store, self.judge)) as keeper,
            closing(self._answered(missing, positives, keeper)) as answers,
        ):
            for found in answers:
                advance(sum(len(group.doc_ids) for group, _ in found))
                keeper.wait()
        self.share(pairs)

    def _answered(
        self, missing: pa.Table, positives: Positives, keeper: Keeper
    ) -> Generator[list[Answered], None, None]:
        def arrived(group: QuestionPairs, answer: ChatAnswer) -> None:
            """Puts an answer into the journal."""
            keeper.put(self._row(group, answer))

        askings = self._askings(missing, positives)
        return answered(self.model, askings, self.config, self.used, arrived, self.prices, self.progress)

    def questions(self, pairs: pa.Table, positives: Positives) -> Iterator[tuple[QuestionPairs, Question]]:
        """Yields the questions about the pairs that the judge was not asked about, each with its group."""
        for one in self._askings(self.missing(pairs), positives):
            yield one.about, one.question

    def take(self, found: Sequence[Answered]) -> pa.Table:
        """Counts the answers to requests of a batch; returns their rows (`stored.keep_answers`)."""
        for _, answer in found:
            self.used.add(answer.tokens_in, answer.tokens_out, self.prices)
        return pa.Table.from_pylist([self._row(*one) for one in found], _ANSWERS)

    def _row(self, group: QuestionPairs, answer: ChatAnswer) -> dict[str, Any]:
        return {
            "query_id": group.query_id,
            "doc_ids": group.doc_ids,
            "pairs": group.pairs,
            "grades": grades(self.config.form, answer, len(group.doc_ids)),
            "answer": answer.text,
            "failure": answer.failure or None,
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
        }

    def share(self, pairs: pa.Table) -> None:
        """Notes the grades of pairs whose texts are those of another pair, which was asked about."""
        others = stored.without_answer(self.store, self.judge.judge, pairs)
        if others.num_rows:
            sizes = np.ones(others.num_rows, dtype=np.int64)
            rows = {"query_id": others["query_id"]}
            for name, own in (("doc_ids", "doc_id"), ("pairs", "pair"), ("grades", "grade")):
                rows[name] = as_lists(others[own].combine_chunks(), sizes)
            stored.keep_answers(self.store, self.judge, pa.table(rows))

    def estimate(self, pairs: pa.Table, positives: Positives) -> tuple[TokenUse, Question | None]:
        """Returns what asking about the pairs would use, and the first question; the server is not asked."""
        return estimate(self._askings(self.missing(pairs), positives), self.prices)

    def _askings(self, pairs: pa.Table, positives: Positives) -> Iterator[Asking[QuestionPairs]]:
        """Yields the questions about pairs, which are those of `missing`."""
        instructions, most = self.config.instructions, self.config.characters
        for block in self.groups(pairs):
            known = positives(list(dict.fromkeys(group.query_id for group in block)))
            shown = [
                [doc for doc in known.get(group.query_id, ()) if doc not in group.doc_ids][:SHOWN]
                for group in block
            ]
            docs = [doc for group, own in zip(block, shown, strict=True) for doc in (*group.doc_ids, *own)]
            # One character more, so that a text that is cut is known to be.
            queries, documents = stored.texts(self.store, [one.query_id for one in block], docs, most + 1)
            for group, own in zip(block, shown, strict=True):
                texts = QuestionTexts(
                    queries[group.query_id],
                    [documents[doc] for doc in group.doc_ids],
                    [documents[doc] for doc in own],
                )
                self.used.cut += sum(len(text) > most for text in texts.documents)
                tokens_out = _TOKENS_OUT[self.config.form] * len(group.doc_ids)
                yield Asking(group, question(self.config, instructions, texts), tokens_out)


def _parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
