"""Sending pairs to a language model: none twice, within a budget, every answer stored when it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa

from miner.engine.progress import SILENT, Progress
from miner.judging.config import COMPARED, GRADED, Budget, JudgeConfig, money
from miner.judging.questions import Grades, QuestionTexts, grades, in_random_order, question
from miner.models.chat import ChatAnswer, ChatModel, Question
from miner.store import judges as stored
from miner.store.database import Database
from miner.store.judges import StoredJudge

Item = TypeVar("Item")

_BLOCK = 1_000
"""Questions whose texts are read at a time."""
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


@dataclass
class TokenUse:
    """Requests and tokens, and what they cost at given prices."""

    requests: int = 0
    tokens_in: float = 0
    tokens_out: float = 0
    cut: int = 0
    """Documents of which only the beginning was sent."""
    stopped: bool = False
    """Whether the budget ended the work."""

    def add(self, tokens_in: float, tokens_out: float) -> None:
        """Counts a request."""
        self.requests += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    def money(self, config: JudgeConfig) -> float | None:
        """Returns the cost; None without prices."""
        if config.price_in is None or config.price_out is None:
            return None
        return money(self.tokens_in, self.tokens_out, config.price_in, config.price_out)


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

    def missing(self, pairs: pa.Table) -> pa.Table:
        """Returns the pairs (`stored.with_pairs`) that the judge was not asked about, each text pair once.

        Those that wait for the answer to a batch are not among them. With the setting `again` they are, and
        so are pairs whose answer could not be read.
        """
        answered = stored.graded_pairs(self.store, self.judge.judge)
        if self.config.again:
            known = answered.filter(answered["grade"].is_valid())["pair"].to_numpy()
        else:
            waiting = stored.waiting_pairs(self.store, self.judge.judge)
            known = np.concatenate([answered["pair"].to_numpy(), waiting["pair"].to_numpy()])
        own, first = np.unique(pairs["pair"].to_numpy(), return_index=True)
        return pairs.take(pa.array(np.sort(first[~np.isin(own, known)])))

    def groups(self, pairs: pa.Table) -> list[QuestionPairs]:
        """Returns the questions about pairs: one of each, or several of a query in random order."""
        by_query: dict[str, dict[str, int]] = {}
        columns = (pairs[name].to_pylist() for name in ("query_id", "doc_id", "pair"))
        for query, doc, pair in zip(*columns, strict=True):
            by_query.setdefault(query, {})[doc] = pair
        size = self.config.together if self.config.form == COMPARED else 1
        return [
            QuestionPairs(query, part, [docs[doc] for doc in part])
            for query, docs in by_query.items()
            for part in _parts(in_random_order(list(docs), query, self.config.seed), size)
        ]

    def ask(self, pairs: pa.Table, known: Mapping[str, Sequence[str]], task: str) -> None:
        """Asks about the pairs that the judge was not asked about, and stores the answers.

        `known` has the positives that each query's documents are compared with. Stops when the budget is
        used. Raises what `ChatModel.answers` does; the answers that came before are stored.
        """
        missing = self.missing(pairs)
        waiting: dict[int, _Unanswered] = {}
        questions = self._questions(self.groups(missing), known, waiting)
        answers = self.model.answers(questions, self.config.concurrency, self.progress)
        finished = pairs.num_rows - missing.num_rows
        with self.progress.task(task, pairs.num_rows, finished, "pairs") as advance, closing(answers):
            for done in answers:
                kept = [(waiting.pop(number), answer) for number, answer in done]
                self._keep([(one.group, answer, (one.tokens_in, one.tokens_out)) for one, answer in kept])
                advance(sum(len(one.group.doc_ids) for one, _ in kept))
        self.share(pairs)

    def questions(
        self, pairs: pa.Table, known: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[QuestionPairs, Question]]:
        """Yields the questions about the pairs that the judge was not asked about, each with its group."""
        return self._with_texts(self.groups(self.missing(pairs)), known)

    def take(self, answered: Sequence[tuple[QuestionPairs, ChatAnswer]], requests: Sequence[str]) -> None:
        """Stores the answers to requests of a batch."""
        self._keep([(group, answer, (0, 0)) for group, answer in answered], requests)

    def _keep(
        self,
        answered: Sequence[tuple[QuestionPairs, ChatAnswer, tuple[float, float]]],
        requests: Sequence[str] = (),
    ) -> None:
        """Stores answers, and counts their tokens: as the server says, else as they were estimated."""
        rows = []
        for group, answer, expected in answered:
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
            self.used.add(answer.tokens_in or expected[0], answer.tokens_out or expected[1])
        stored.keep_answers(self.store, self.judge, pa.Table.from_pylist(rows, _ANSWERS), requests)

    def share(self, pairs: pa.Table) -> None:
        """Notes the grades of pairs whose texts are those of another pair, which was asked about."""
        others = stored.without_answer(self.store, self.judge.judge, pairs)
        if others.num_rows:
            rows = [
                {
                    "query_id": row["query_id"],
                    "doc_ids": [row["doc_id"]],
                    "pairs": [row["pair"]],
                    "grades": [row["grade"]],
                }
                for row in others.to_pylist()
            ]
            stored.keep_answers(self.store, self.judge, pa.Table.from_pylist(rows, _ANSWERS))

    def estimate(
        self, pairs: pa.Table, known: Mapping[str, Sequence[str]]
    ) -> tuple[TokenUse, Question | None]:
        """Returns what asking about the pairs would use, and the first question; the server is not asked."""
        usage, first = TokenUse(), None
        for group, one in self.questions(pairs, known):
            first = first or one
            usage.add(*_guess(one, len(group.doc_ids), self.config.form))
        return usage, first

    def _with_texts(
        self, groups: Sequence[QuestionPairs], known: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[QuestionPairs, Question]]:
        instructions = self.config.instructions
        for block in _parts(groups, _BLOCK):
            shown = {group.query_id: known.get(group.query_id, ()) for group in block}
            docs = [doc for group in block for doc in group.doc_ids]
            docs += [doc for ids in shown.values() for doc in ids]
            queries, documents = stored.texts(self.store, list(shown), docs)
            for group in block:
                texts = QuestionTexts(
                    queries[group.query_id],
                    [documents[doc] for doc in group.doc_ids],
                    [documents[doc] for doc in shown[group.query_id] if doc not in group.doc_ids],
                )
                self.used.cut += sum(len(text) > self.config.characters for text in texts.documents)
                yield group, question(self.config, instructions, texts)

    def _questions(
        self,
        groups: Sequence[QuestionPairs],
        known: Mapping[str, Sequence[str]],
        waiting: dict[int, _Unanswered],
    ) -> Iterator[Question]:
        """Yields the questions as long as the budget lasts; adds to `waiting` what each is about."""
        budget = None
        if self.config.budget is not None:
            budget = Budget.parse(self.config.budget, self.config.price_in, self.config.price_out)
        for number, (group, asking) in enumerate(self._with_texts(groups, known)):
            one = _Unanswered(group, *_guess(asking, len(group.doc_ids), self.config.form))
            if budget is not None:
                all_waiting = [*waiting.values(), one]
                used = budget.used(
                    self.used.requests + len(all_waiting),
                    self.used.tokens_in + sum(other.tokens_in for other in all_waiting),
                    self.used.tokens_out + sum(other.tokens_out for other in all_waiting),
                )
                if used > budget.most:
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


def _parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
