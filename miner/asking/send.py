"""Sending questions to a language model as long as the budget lasts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from miner.asking.cost import BYTES_PER_TOKEN, AskingConfig, Prices, TokenUse
from miner.engine.progress import SILENT, Progress
from miner.models.chat import ChatAnswer, ChatModel, Question

About = TypeVar("About")


@dataclass(frozen=True)
class Asking(Generic[About]):
    """A question, what it is about, and the tokens that it will probably take."""

    about: About
    question: Question
    tokens_out: float
    """Estimated tokens of the answer."""

    @property
    def tokens_in(self) -> float:
        """Estimated tokens of the question."""
        size = len(self.question.system.encode()) + len(self.question.user.encode())
        return size / BYTES_PER_TOKEN


def estimate(askings: Iterable[Asking[About]], prices: Prices | None) -> tuple[TokenUse, Question | None]:
    """Returns what asking would use, and the first question; nothing is sent."""
    usage, first = TokenUse(money=None if prices is None else 0.0), None
    for one in askings:
        first = first or one.question
        usage.add(one.tokens_in, one.tokens_out, prices)
    return usage, first


def answered(
    model: ChatModel,
    askings: Iterable[Asking[About]],
    config: AskingConfig,
    used: TokenUse,
    arrived: Callable[[About, ChatAnswer], None],
    prices: Prices | None = None,
    progress: Progress = SILENT,
) -> Generator[list[tuple[About, ChatAnswer]], None, None]:
    """Yields what questions are about with their answers, as these come, until the budget is used.

    `arrived` gets each answer first, in the thread of the requests (`ChatModel.answers`). Adds to `used`,
    which counts against the budget: tokens as the server counts them, else as estimated. Raises what
    `ChatModel.answers` does; what came before was yielded.
    """
    waiting: dict[int, Asking[About]] = {}
    questions = _within_budget(askings, config, used, prices, waiting)

    def arriving(number: int, answer: ChatAnswer) -> None:
        """Gives an answer to `arrived`."""
        arrived(waiting[number].about, answer)

    with closing(model.answers(questions, arriving, config.concurrency, progress)) as answers:
        for done in answers:
            found = [(waiting.pop(number), answer) for number, answer in done]
            for one, answer in found:
                used.add(answer.tokens_in or one.tokens_in, answer.tokens_out or one.tokens_out, prices)
            yield [(one.about, answer) for one, answer in found]


def _within_budget(
    askings: Iterable[Asking[About]],
    config: AskingConfig,
    used: TokenUse,
    prices: Prices | None,
    waiting: dict[int, Asking[About]],
) -> Iterator[Question]:
    """Yields the questions as long as the budget lasts; adds each to `waiting`."""
    budget = config.limit
    for number, one in enumerate(askings):
        if budget is not None:
            under_way = [*waiting.values(), one]
            expected = replace(used)
            expected.add(
                sum(other.tokens_in for other in under_way),
                sum(other.tokens_out for other in under_way),
                prices,
                len(under_way),
            )
            if expected.exceeds(budget):
                used.stopped = True
                return
        waiting[number] = one
        yield one.question
