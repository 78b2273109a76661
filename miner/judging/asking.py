"""Sending pairs to a language model: none twice, within a budget, every answer stored when it comes.

Questions are made in blocks of some thousand pairs, so that a million pairs take no more memory than their
ids. Answers are stored in a thread of its own (`keeping`). After a kill, the requests that were under way and
the answers that were not committed are sent again: at most twice the setting `concurrency`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from miner.arrays import as_lists, as_numpy, group_sizes, slices
from miner.engine.progress import SILENT, Progress
from miner.judging.config import COMPARED, GRADED, Budget, JudgeConfig, Prices
from miner.judging.keeping import Keeper
from miner.judging.questions import SHOWN, Grades, QuestionTexts, grades, in_random_order, question
from miner.models.chat import ChatAnswer, ChatModel, Question
from miner.store import judges as stored
from miner.store.database import Database
from miner.store.judges import StoredJudge

Item = TypeVar("Item")

Positives = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]
"""Returns the positives of some queries that documents are compared with."""

_BLOCK = 4_000
"""Pairs whose texts are read at a time: each time reads all ids of the store."""
BYTES_PER_TOKEN = 4.0
"""What a token is estimated to have, in UTF-8, before a server counts them."""
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
class TokenUse:
    """Requests and tokens, and what they cost."""

    requests: int = 0
    tokens_in: float = 0
    tokens_out: float = 0
    money: float | None = None
    """What they cost; None without prices."""
    cut: int = 0
    """Documents of which only the beginning was sent."""
    stopped: bool = False
    """Whether the budget ended the work."""

    def add(self, tokens_in: float, tokens_out: float, prices: Prices | None, requests: int = 1) -> None:
        """Counts requests."""
        self.requests += requests
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        if prices is not None and self.money is not None:
            self.money += prices.of(tokens_in, tokens_out)

    def exceeds(self, budget: Budget) -> bool:
        """Returns whether it is more than a budget."""
        amounts = {
            "requests": self.requests,
            "tokens": self.tokens_in + self.tokens_out,
            "money": self.money or 0.0,
        }
        return amounts[budget.unit] > budget.most


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
        waiting: dict[int, _Unanswered] = {}
        questions = self._questions(missing, positives, waiting)
        answers = self.model.answers(questions, self.config.concurrency, self.progress)
        finished = pairs.num_rows - missing.num_rows
        with (
            self.progress.task(task, pairs.num_rows, finished, "pairs") as advance,
            closing(answers),
            Keeper(self._keep, self.config.concurrency) as keeper,
        ):
            for done in answers:
                answered = [(waiting.pop(number), answer) for number, answer in done]
                for one, answer in answered:  # as the server counts them, else as they were estimated
                    self._count(answer.tokens_in or one.tokens_in, answer.tokens_out or one.tokens_out)
                stored_now = keeper.put([(one.group, answer) for one, answer in answered])
                advance(_pairs_in(stored_now))
            advance(_pairs_in(keeper.finish()))
        self.share(pairs)

    def questions(self, pairs: pa.Table, positives: Positives) -> Iterator[tuple[QuestionPairs, Question]]:
        """Yields the questions about the pairs that the judge was not asked about, each with its group."""
        return self._with_texts(self.missing(pairs), positives)

    def take(self, answered: Sequence[Answered]) -> pa.Table:
        """Counts the answers to requests of a batch; returns their rows (`stored.keep_answers`)."""
        for _, answer in answered:
            self._count(answer.tokens_in, answer.tokens_out)
        return self._rows(answered)

    def _count(self, tokens_in: float, tokens_out: float) -> None:
        self.used.add(tokens_in, tokens_out, self.prices)

    def _keep(self, answered: Sequence[Answered]) -> None:
        stored.keep_answers(self.store, self.judge, self._rows(answered))

    def _rows(self, answered: Sequence[Answered]) -> pa.Table:
        rows = []
        for group, answer in answered:
            read: Grades = grades(self.config.form, answer, len(group.doc_ids))
            rows.append(
                {
                    "query_id": group.query_id,
                    "doc_ids": group.doc_ids,
                    "pairs": group.pairs,
                    "grades": read,
                    "answer": answer.text,
                    "failure": answer.failure or None,
                    "tokens_in": answer.tokens_in,
                    "tokens_out": answer.tokens_out,
                }
            )
        return pa.Table.from_pylist(rows, _ANSWERS)

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
        usage, first = TokenUse(money=None if self.prices is None else 0.0), None
        for group, one in self.questions(pairs, positives):
            first = first or one
            usage.add(*_guess(one, len(group.doc_ids), self.config.form), self.prices)
        return usage, first

    def _with_texts(self, pairs: pa.Table, positives: Positives) -> Iterator[tuple[QuestionPairs, Question]]:
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
                yield group, question(self.config, instructions, texts)

    def _questions(
        self, pairs: pa.Table, positives: Positives, waiting: dict[int, _Unanswered]
    ) -> Iterator[Question]:
        """Yields the questions as long as the budget lasts; adds to `waiting` what each is about."""
        budget = None
        if self.config.budget is not None:
            budget = Budget.parse(self.config.budget, self.prices is not None)
        for number, (group, asking) in enumerate(self._with_texts(pairs, positives)):
            one = _Unanswered(group, *_guess(asking, len(group.doc_ids), self.config.form))
            if budget is not None:
                under_way = [*waiting.values(), one]
                expected = replace(self.used)
                expected.add(
                    sum(other.tokens_in for other in under_way),
                    sum(other.tokens_out for other in under_way),
                    self.prices,
                    len(under_way),
                )
                if expected.exceeds(budget):
                    self.used.stopped = True
                    return
            waiting[number] = one
            yield asking


@dataclass(frozen=True)
class _Unanswered:
    """A question that has no answer yet, and the tokens that it will probably take."""

    group: QuestionPairs
    tokens_in: float
    tokens_out: float


def _guess(sent: Question, documents: int, form: str) -> tuple[float, float]:
    """Returns the tokens that a question and its answer probably have."""
    size = len(sent.system.encode()) + len(sent.user.encode())
    return size / BYTES_PER_TOKEN, _TOKENS_OUT[form] * documents


def _pairs_in(answered: Sequence[Answered]) -> int:
    return sum(len(group.doc_ids) for group, _ in answered)


def _parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
