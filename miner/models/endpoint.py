"""A server that answers for a model over HTTP: requests in parallel, tried again while it is busy or away.

The client is httpx2, which huggingface_hub uses as well; tenacity decides when a request is sent again. The
requests run in an event loop in a thread of its own, so that Ctrl-C ends all of them at once and the library
works inside another event loop, as in a notebook.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.errors import MissingExtraError, ModelError, UsageError, counted, snippet

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response
    from tenacity import RetryCallState

KEY = "MINER_API_KEY"
"""The environment variable with the key that every request carries. Its value is never shown or stored."""
AT_ONCE = 8
"""Requests that are under way at the same time, unless a number of workers is given."""
PATIENCE = 300.0
"""Seconds for which a request is tried again: the time in which a server restarts and loads its model."""
_GET_PATIENCE = 3.0
ANSWER_SECONDS = 600.0
"""Seconds to wait for an answer. A processor needs minutes for a batch of long texts."""
_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 20.0
"""Seconds before a request is sent again, unless the server names a time; doubled each time."""

EXAMPLE = "http://localhost:8080/v1#BAAI/bge-small-en-v1.5"
CUT = {"truncate_prompt_tokens": -1, "truncate": True}
"""Asks for texts to be cut to what the model reads: the fields of vLLM and of text-embeddings-inference."""
_BUSY = frozenset({408, 425, 429})
_AWAY = "away"
"""The kind of failure in which nothing answers."""
_NEVER = frozenset({501, 505})
"""Failures of a server (5xx) that trying again does not mend."""
_ABOUT_TEXTS = frozenset({400, 413, 422, 424})
_SHOWN = 200
"""Characters of a server's own message that an error shows."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = npt.NDArray[Any]
Ask = Callable[[Sequence[str], Mapping[str, Any]], Awaitable[Rows]]
"""Sends texts in a request with extra fields; returns a row for each."""


class RefusedError(ModelError):
    """The server does not do what it was asked: a status from 400 to 499 that does not go away."""

    def __init__(self, url: str, status: int, message: str, hint: str) -> None:
        super().__init__(f"{url} answers {status}{f': {message}' if message else ''}", hint)
        self.status = status
        self.reason = message or f"status {status}"
        """What the server says, shortened."""
        self.about_texts = status in _ABOUT_TEXTS
        """Whether fewer or shorter texts may be accepted."""


class _TransientError(Exception):
    """A failure that may go away: no connection, too many requests, a failing server."""

    def __init__(self, kind: str, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.wait = kind, reason, wait
        self.connected = kind != _AWAY


def is_served(name: str) -> bool:
    """Returns whether a model's name is a URL, so that a server computes its vectors or scores."""
    return name.lower().startswith(("http://", "https://"))


def require_not_served(name: str) -> None:
    """Raises ModelError for a model that a server runs, where the weights themselves are needed."""
    if is_served(name):
        parts, model = _parsed(name)
        raise ModelError(
            f"a server runs {model} ({parts.netloc}), and its weights are needed here",
            "name a folder, a hub id, or bundled",
        )


class Endpoint:
    """A server and one of its models, by a name `URL#MODEL`.

    `patience` is the number of seconds for which a request is tried again, `answer_seconds` how long it waits
    for an answer. `progress` gets the notes of requests that are made without a progress of their own. Raises
    UsageError for a name of another form or with a password in it, and MissingExtraError without the client
    library.
    """

    def __init__(
        self,
        name: str,
        patience: float = PATIENCE,
        progress: Progress = SILENT,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        parts, self.model = _parsed(name)
        self._progress = progress
        self.url = f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"
        """The URL without the model."""
        self.root = re.sub(r"/v\d+$", "", self.url)
        """The URL without a version such as `/v1` at its end."""
        self.host = parts.netloc
        """The host and port."""
        self.is_local = _is_loopback(parts.hostname or "")
        self.is_encrypted = parts.scheme.lower() == "https"
        self.patience, self._answer_seconds = patience, answer_seconds
        self.has_answered = False
        self._noted: set[str] = set()
        try:
            import anyio  # noqa: F401
            import httpx2  # noqa: F401
            import tenacity  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("the client for served models", "serve") from error

    def places(self, what: str) -> list[str]:
        """Returns the addresses at which a server may offer `what`, the likely one first."""
        return list(dict.fromkeys((f"{self.url}/{what}", f"{self.root}/v1/{what}", f"{self.root}/{what}")))

    def map(
        self,
        work: Callable[[Connection, Item], Awaitable[Result]],
        items: Iterable[Item],
        workers: int | None,
        progress: Progress,
    ) -> Generator[Result, None, None]:
        """Yields `work(connection, item)` for every item, in order; `workers` requests at a time, or AT_ONCE.

        An error, Ctrl-C and closing the generator end all requests at once.
        """
        with self._connected(workers, progress) as (begin, at_once):
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(begin(work, item))
                if len(waiting) >= 2 * at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def as_completed(
        self,
        work: Callable[[Connection, Item], Awaitable[Result]],
        items: Iterable[Item],
        workers: int | None,
        progress: Progress,
    ) -> Generator[list[Result], None, None]:
        """Yields what `map` does as it comes in: the results of all items that are done, in any order.

        An item is taken from `items` only when a request can begin, so that the caller decides when to stop.
        """
        with self._connected(workers, progress) as (begin, at_once):
            rest = iter(items)
            waiting: set[Future[Result]] = set()

            def fill() -> None:
                """Begins as many requests as are missing."""
                waiting.update(begin(work, item) for item in islice(rest, at_once - len(waiting)))

            fill()
            while waiting:
                done, _ = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
                failed = [one for one in done if one.exception() is not None]
                found = [one.result() for one in done if one not in failed]
                waiting -= done
                if not failed:
                    fill()  # the next ones are under way while the caller works
                if found:
                    yield found  # before the failure of another: it may have cost something
                for one in failed:
                    one.result()

    @contextmanager
    def _connected(
        self, workers: int | None, progress: Progress
    ) -> Iterator[tuple[Callable[..., Future[Any]], int]]:
        """Opens a client; yields what begins a request in it, and how many there are at a time."""
        from anyio.from_thread import start_blocking_portal
        from httpx2 import AsyncClient, Limits, Timeout

        at_once = workers or AT_ONCE
        notes = self._progress if progress is SILENT else progress
        key = _key()
        if key and not (self.is_encrypted or self.is_local):
            message = f"warning: the key in {KEY} goes to {self.host} unencrypted; use https"
            self.note_once(message, KEY, notes)
        client = AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=Timeout(self._answer_seconds, connect=_CONNECT_SECONDS, pool=None),
            limits=Limits(max_connections=at_once, max_keepalive_connections=at_once),
            trust_env=not self.is_local,  # a proxy cannot reach this machine
            # Loading certificates takes 0.06 s, for nothing if neither the server nor a proxy uses TLS.
            verify=self.is_encrypted or not self.is_local,
        )
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client) as opened:
            connection = Connection(self, opened, key, notes)
            yield lambda work, item: portal.start_task_soon(work, connection, item), at_once

    def note_once(self, message: str, kind: str, progress: Progress) -> None:
        """Gives a note, unless one of its kind was given before."""
        if kind not in self._noted:
            self._noted.add(kind)
            progress.note(message)


class Connection:
    """Requests to a server, inside `Endpoint.map`."""

    def __init__(self, endpoint: Endpoint, client: AsyncClient, key: str, progress: Progress) -> None:
        self._endpoint, self._client, self._key, self._progress = endpoint, client, key, progress

    async def post(self, url: str, body: Mapping[str, Any]) -> Any:
        """Returns the JSON that the server answers to a body.

        Sends it again while the server is busy, fails or restarts. Raises RefusedError if the server does not
        accept it, and ModelError if it does not answer or the key is wrong.
        """
        try:
            return await self._patiently("POST", url, body, self._endpoint.patience)
        except _TransientError as failure:
            raise self._gave_up(failure) from failure

    async def get(self, url: str) -> Any:
        """Returns the JSON at an address, or None if there is none; raises ModelError without a server."""
        try:
            return await self._patiently("GET", url, None, _GET_PATIENCE)
        except ModelError:
            return None
        except _TransientError as failure:
            if failure.connected:  # some gateways answer 502 or 503 for an address that does not exist
                return None
            raise self._gave_up(failure) from failure

    async def in_parts(self, ask: Ask, texts: Sequence[str], beside: str = "") -> Rows:
        """Returns the rows of `ask(texts)`, with the texts cut or in smaller parts if the server refuses.

        Raises ModelError, which names the text and adds `beside`, if a single text is refused.
        """
        try:
            return await ask(texts, {})
        except RefusedError as error:
            if not error.about_texts:
                raise
            refusal = error
        try:
            rows = await ask(texts, CUT)
        except RefusedError:
            if len(texts) == 1:
                size = counted(len(texts[0]), "character")
                raise ModelError(
                    f"{self._endpoint.url} refuses the text '{snippet(texts[0])}' ({size}){beside}: "
                    f"{refusal.reason}",
                    "let the server cut long texts (text-embeddings-inference: --auto-truncate)",
                ) from refusal
        else:
            model = self._endpoint.model
            self.note_once(
                f"{model} refuses texts that are longer than it reads; the server cuts them", "cut"
            )
            return rows
        half = len(texts) // 2
        parts = [await self.in_parts(ask, part, beside) for part in (texts[:half], texts[half:])]
        return np.concatenate(parts)

    def note_once(self, message: str, kind: str) -> None:
        """Gives a note, unless one of its kind was given before."""
        self._endpoint.note_once(message, kind, self._progress)

    async def _patiently(self, method: str, url: str, body: Mapping[str, Any] | None, patience: float) -> Any:
        """Returns the JSON of an answer; raises _TransientError if `patience` seconds were not enough."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_exponential_jitter

        usual = wait_exponential_jitter(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT, jitter=_FIRST_WAIT)

        def again(error: BaseException) -> bool:
            """Returns whether to send the request again: not to a server that has never answered."""
            return isinstance(error, _TransientError) and (error.connected or self._endpoint.has_answered)

        def wait(state: RetryCallState) -> float:
            """Returns the seconds to wait: as the server asks, else longer every time."""
            seconds = _failure(state).wait or 0.0
            return seconds if seconds >= _FIRST_WAIT else usual(state)

        def note(state: RetryCallState) -> None:
            """Reports the first failure of each kind: a restart is one, though its errors vary."""
            failure = _failure(state)
            self.note_once(
                f"{self._endpoint.url}: {failure.reason}; miner tries again for up to {patience:.0f} s",
                failure.kind,
            )

        retrying = AsyncRetrying(
            retry=retry_if_exception(again),
            stop=stop_before_delay(patience),
            wait=wait,
            before_sleep=note if method == "POST" else None,
            reraise=True,
        )
        return await retrying(self._once, method, url, body)

    def _gave_up(self, failure: _TransientError) -> ModelError:
        url, more = self._endpoint.url, ""
        if failure.wait is not None and failure.wait >= 1:
            more = f", and asks to wait {failure.wait:,.0f} s"
        if not self._endpoint.has_answered and not failure.connected:
            return ModelError(
                f"no server answers at {url}: {failure.reason}", "start the server, or check the address"
            )
        return ModelError(
            f"{url} does not answer: {failure.reason}{more}",
            "check the server, then run the command again: finished work is kept",
        )

    async def _once(self, method: str, url: str, body: Mapping[str, Any] | None) -> Any:
        from httpx2 import RequestError, TimeoutException

        try:
            response = await self._client.request(method, url, json=body)
        except TimeoutException as error:
            raise _TransientError(_AWAY, "no answer in time") from error
        except RequestError as error:
            raise _TransientError(_AWAY, _why(error)) from error
        status = response.status_code
        if status in _BUSY or (status >= 500 and status not in _NEVER):
            message = self._message(response)
            reason = f"it answers {status}{f' ({message})' if message else ''}"
            raise _TransientError(str(status), reason, _retry_after(response))
        self._endpoint.has_answered = True
        if response.is_success:
            try:
                return response.json()
            except ValueError as error:
                raise _NotJsonError(
                    f"{url} answers with something that is not JSON", "check the URL; it often ends in /v1"
                ) from error
        if status in (401, 403):
            raise ModelError(
                f"{url} answers {status}: it {'does not accept the key' if self._key else 'wants a key'}",
                f"set the environment variable {KEY} to a key that may use {self._endpoint.model}",
            )
        raise RefusedError(
            url,
            status,
            self._message(response),
            "check the URL, which often ends in /v1, and the model's name",
        )

    def _message(self, response: Response) -> str:
        """Returns what the server says about a failure, shortened and without the key."""
        try:
            said: Any = response.json()
        except ValueError:
            said = response.text if response.headers.get("content-type", "").startswith("text/plain") else ""
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and name in said:
                said = said[name]
        text = said if isinstance(said, str) else str(said or "")
        return snippet(text.replace(self._key, "…") if self._key else text, _SHOWN)


class _NotJsonError(ModelError):
    """An answer that is not JSON, as of another kind of server."""


def _failure(state: RetryCallState) -> _TransientError:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, _TransientError)
    return failure


def _parsed(name: str) -> tuple[SplitResult, str]:
    """Returns the URL and the model of a name; an error never shows a URL that may contain a password."""
    hint = f"write URL#MODEL, such as {EXAMPLE}"
    try:
        parts = urlsplit(name)
        has_port = parts.port is None or parts.port > 0
    except ValueError as error:
        raise UsageError("the name of a served model is not a URL", hint) from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the URL of a served model contains a user or a password",
            f"leave it out; a key comes from the environment variable {KEY}",
        )
    if parts.query:
        raise UsageError(
            "the URL of a served model has a query (the part after '?')",
            f"leave it out; a key comes from the environment variable {KEY}",
        )
    if parts.scheme not in ("http", "https"):
        raise UsageError(
            f"the URL of a server begins with http:// or https://, got '{snippet(name.partition('#')[0])}'",
            "such as http://localhost:8080/v1",
        )
    if not parts.hostname or not has_port:
        raise UsageError(f"'{snippet(name)}' names no server", hint)
    if not parts.fragment.strip():
        raise UsageError(
            f"'{snippet(name)}' does not name a model of the server", f"{hint}; of a model on the hub, its id"
        )
    return parts, parts.fragment


def _key() -> str:
    """Returns the key; raises UsageError, which does not show it, if a header cannot contain it."""
    key = os.environ.get(KEY, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(
            f"the key in {KEY} has characters that a request cannot carry", f"set {KEY} to the key alone"
        )
    return key


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _why(error: BaseException) -> str:
    """Returns why there is no connection, in the words of the system."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError) and cause.errno:
            return os.strerror(cause.errno).lower()
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__ or cause.__context__
    return snippet(str(error) or type(error).__name__)


def _retry_after(response: Response) -> float | None:
    """Returns the seconds that the header Retry-After asks to wait (RFC 9110, 10.2.3), or None."""
    header = response.headers.get("retry-after", "").strip()
    try:
        if not header or header.replace(".", "", 1).isdigit():
            return float(header) if header else None
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
