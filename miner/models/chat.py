"""A language model that a server runs: OpenAI's `/chat/completions`, answered as JSON of a given schema.

Servers differ in what they accept: a JSON schema, any JSON object, or text only; a temperature or none; the
limit of the answer under its older or its newer name. The first request finds out, from the most exact form
to the plainest, and all later ones have the form that was accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from miner.engine.progress import SILENT, Progress
from miner.errors import ModelError
from miner.models.endpoint import ANSWER_SECONDS, PATIENCE, Connection, Endpoint, RefusedError

ANSWER_TOKENS = 4096
"""The most tokens of an answer: models that reason before they answer need many."""
FORMS = ("schema", "object", "text")
"""How an answer is made JSON: by a schema, as some object, or by the prompt alone."""
_PATIENT = 5
"""Questions in a row that a server may refuse before it counts as one that cannot be asked: a single refusal
may be about the texts, such as their length."""


@dataclass(frozen=True)
class Question:
    """What a model is asked: instructions, data, and the JSON schema of the answer."""

    system: str
    user: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class ChatAnswer:
    """What a model answers."""

    text: str
    """The answer, empty without one."""
    failure: str
    """Why there is no answer: the server refused the texts, or the model did; empty with an answer."""
    tokens_in: int
    """Tokens of the request, as the server counts them; 0 if it does not."""
    tokens_out: int


class ChatModel:
    """A language model by a name `URL#MODEL`, asked at temperature 0. It is not asked when it is made.

    `patience` is the number of seconds for which a request is sent again while the server is busy or away,
    `answer_seconds` how long each waits for its answer.
    Raises UsageError for a wrong name and MissingExtraError without the client library.
    """

    def __init__(
        self,
        name: str,
        *,
        patience: float = PATIENCE,
        answer_seconds: float = ANSWER_SECONDS,
        progress: Progress = SILENT,
    ) -> None:
        self.name = name
        self._endpoint = Endpoint(name, patience, progress, answer_seconds)
        self.model = self._endpoint.model
        """The model's name without the URL."""
        self.host = self._endpoint.host
        """The host and port that the texts go to."""
        self._form: _Form | None = None
        self._refused = 0
        """Questions in a row that were refused."""

    def answers(
        self,
        questions: Iterable[Question],
        arrived: Callable[[int, ChatAnswer], None],
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Generator[list[tuple[int, ChatAnswer]], None, None]:
        """Yields the number and the answer of the questions that are done, as they come in.

        `workers` are asked at a time; a question is taken from `questions` only when it can be asked.
        `arrived` gets each answer, in the thread of the requests, before another question takes its place.
        Raises ModelError if the server does not answer for long, or refuses several questions in a row.
        """
        rest, sent = iter(questions), 0
        refused: list[tuple[int, ChatAnswer]] = []
        while self._form is None:  # one at a time, until a form is accepted
            first = next(rest, None)
            if first is None:
                break
            (answer,) = self._endpoint.map(partial(self._first, len(refused)), [first], 1, progress)
            refused.append((sent, answer))
            sent += 1
        if refused and self._form is not None:  # without one nobody knows whether it was the texts
            for number, answer in refused:
                arrived(number, answer)
            yield refused

        async def ask(connection: Connection, numbered: tuple[int, Question]) -> tuple[int, ChatAnswer]:
            """Asks one question, and gives its answer to `arrived`."""
            number, question = numbered
            answer = await self._ask(connection, question)
            arrived(number, answer)
            return number, answer

        yield from self._endpoint.as_completed(ask, enumerate(rest, sent), workers, progress)

    async def _ask(self, connection: Connection, question: Question) -> ChatAnswer:
        assert self._form is not None
        try:
            answer = await self._post(connection, question, self._form)
        except RefusedError as error:
            self._refused += 1
            if not error.about_texts or self._refused >= _PATIENT:
                raise
            return ChatAnswer("", error.reason, 0, 0)
        self._refused = 0
        return answer

    async def _first(self, refused: int, connection: Connection, question: Question) -> ChatAnswer:
        """Asks in one form after the other until one is accepted, and remembers it."""
        refusals: list[RefusedError] = []
        for url in self._endpoint.places("chat/completions"):
            for form in _forms(url):
                try:
                    answer = await self._post(connection, question, form)
                except RefusedError as error:
                    refusals.append(error)
                    if not error.about_texts:
                        break
                else:
                    self._form = form
                    return answer
        found = [error for error in refusals if error.status not in (404, 405)] or refusals
        if refused + 1 < _PATIENT and found[0].about_texts:
            return ChatAnswer("", found[0].reason, 0, 0)
        raise found[0]

    async def _post(self, connection: Connection, question: Question, form: _Form) -> ChatAnswer:
        answer = as_answer(await connection.post(form.url, _body(self.model, question, form)))
        if answer is None and self._form is None:
            raise ModelError(
                f"{self.name} gives an answer of another form", "check that the URL is of a chat model"
            )
        return answer or ChatAnswer("", "an answer of another form", 0, 0)


@dataclass(frozen=True)
class _Form:
    """How a server wants to be asked."""

    url: str
    answer: str
    """One of FORMS."""
    is_plain: bool
    """Whether the temperature is the server's and the limit of the answer has its newer name."""

    def fields(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of a request beside the messages."""
        fields: dict[str, Any] = {"max_completion_tokens": ANSWER_TOKENS}
        if not self.is_plain:
            fields = {"max_tokens": ANSWER_TOKENS, "temperature": 0}
        if self.answer == "schema":
            described = {"name": "answer", "strict": True, "schema": schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": described}
        elif self.answer == "object":
            fields["response_format"] = {"type": "json_object"}
        return fields


def _forms(url: str) -> Sequence[_Form]:
    return [_Form(url, answer, is_plain) for answer in FORMS for is_plain in (False, True)]


def _body(model: str, question: Question, form: _Form) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": question.system},
        {"role": "user", "content": question.user},
    ]
    return {"model": model, "messages": messages, **form.fields(question.schema)}


def whole_body(model: str, question: Question, answer: str = FORMS[0]) -> dict[str, Any]:
    """Returns a request for a server that is not here to be asked what it takes; `answer` is one of FORMS."""
    return _body(model, question, _Form("", answer, is_plain=False))


def as_answer(answer: Any) -> ChatAnswer | None:
    """Returns the answer in what the server sent; None if that has another form."""
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        usage = answer.get("usage")
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    tokens = [one if isinstance(one, int) else 0 for one in counts]
    if isinstance(text, str) and text.strip():
        return ChatAnswer(_utf8(text), "", *tokens)
    return ChatAnswer("", _utf8(str(refusal or choice.get("finish_reason") or "empty")), *tokens)


def _utf8(text: str) -> str:
    """Returns a text without halves of characters, which JSON can escape and no file can contain."""
    return text.encode("utf-8", "replace").decode()
