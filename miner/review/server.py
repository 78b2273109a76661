"""The server of the page of `miner review`: on 127.0.0.1 only, for browsers that have its token.

A request needs the token: in the address that the command prints, in the cookie that the first visit sets, or
in the header X-Review-Token. It is refused if a page of another origin makes it (Origin, Sec-Fetch-Site), or
if it names another host than this machine, as a page with a rebound DNS name does. What the page shows goes
out as JSON, and the page's own script puts it in as text; its policy allows nothing but the three files here.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from miner.errors import MinerError, MissingExtraError, UsageError
from miner.review.session import Session, reviewer_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
TOKEN_HEADER = "x-review-token"
_NAMES = (HOST, "localhost")
"""The names by which a browser on this machine, or behind an SSH tunnel, calls the server."""
_PAGE = {
    "/": ("review.html", "text/html; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LARGEST = 64 * 1024
"""The most bytes of a request's body."""


def require_extra() -> None:
    """Raises MissingExtraError if the packages of the page's server are not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the server of the review page", "review") from error


class Guard:
    """Refuses requests without the token, of other origins and for other hosts; adds the headers."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request itself if it refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.requests import Request
        from starlette.responses import JSONResponse

        request = Request(scope)
        refusal, cookie = self._judge(request)

        async def with_headers(message: Any) -> None:
            """Sends a message; the first one gets the headers."""
            if message["type"] == "http.response.start":
                own = _HEADERS if cookie is None or refusal else _HEADERS | {"Set-Cookie": cookie}
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in own.items()),
                ]
            await send(message)

        if refusal is None:
            await self._app(scope, receive, with_headers)
        else:
            await JSONResponse({"error": refusal}, 403)(scope, receive, with_headers)

    def _judge(self, request: Request) -> tuple[str | None, str | None]:
        """Returns why a request is refused, if it is, and the cookie to set, if its address has the token."""
        host = request.headers.get("host", "")
        if host.rpartition(":")[0] not in _NAMES and host not in _NAMES:
            return f"this server answers as {' or '.join(_NAMES)} only", None
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "a page of another origin asks", None
        given = request.query_params.get("token") if request.url.path == "/" else None
        site = request.headers.get("sec-fetch-site", "none")
        is_visit = given is not None and request.headers.get("sec-fetch-dest", "document") == "document"
        if site not in ("none", "same-origin") and not is_visit:
            return "a page of another origin asks", None
        name = cookie_name(host)
        if given is not None:
            if not self._is_token(given):
                return _WRONG, None
            return None, f"{name}={given}; HttpOnly; SameSite=Strict; Path=/"
        known = request.headers.get(TOKEN_HEADER) or _cookie(request.headers.get("cookie", ""), name)
        return (None, None) if self._is_token(known) else (_WRONG, None)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)


_WRONG = "open the address that miner review printed: the token is missing or wrong"


def cookie_name(host: str) -> str:
    """Returns the name of the cookie: cookies of one host are shared by its ports, so the port is in it."""
    return f"miner_review_{host.rpartition(':')[2] if ':' in host else 80}"


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def application(session: Session, token: str, reviewer: str | None = None) -> ASGIApp:
    """Returns the ASGI application of a session. `reviewer` is the name that the page starts with."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    folder = files("miner.review") / "page"
    page = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _PAGE.items()}

    async def static(request: Request) -> Response:
        """Answers with a file of the page."""
        content, kind = page[request.url.path]
        return Response(content, media_type=kind)

    def route(path: str, work: Callable[[dict[str, Any]], Any], method: str) -> Route:
        """Returns a route whose work gets the values of the request and returns a JSON-able value."""

        async def answered(request: Request) -> Response:
            """Answers one request in a thread, so that others go on."""
            try:
                values = await _values(request) if method == "POST" else dict(request.query_params)
                return JSONResponse(await run_in_threadpool(work, values))
            except UsageError as error:
                return JSONResponse({"error": str(error)}, 400)
            except MinerError as error:
                return JSONResponse({"error": str(error)}, 500)

        return Route(path, answered, methods=[method])

    def person(values: dict[str, Any]) -> str:
        """Returns the name of who asks; raises UsageError for a request without one."""
        return reviewer_name(values.get("reviewer"))

    routes = [
        *(Route(path, static) for path in page),
        route("/api/start", lambda _: session.state("") | {"reviewer": reviewer}, "GET"),
        route("/api/state", lambda values: session.state(person(values)), "GET"),
        route("/api/item", lambda values: session.item(_position(values), person(values)), "GET"),
        route("/api/find", lambda values: session.find(values.get("text", ""), person(values)), "GET"),
        route("/api/summary", lambda _: session.summary(), "GET"),
        route(
            "/api/answer",
            lambda values: session.answer(
                _position(values), str(values.get("answer")), person(values), _seconds(values)
            ),
            "POST",
        ),
        route("/api/undo", lambda values: session.undo(person(values)), "POST"),
    ]
    return Guard(Starlette(routes=routes), token)


async def _values(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request; raises UsageError for another body."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise UsageError("the body must be application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            raise UsageError(f"the body has more than {_LARGEST} bytes")
    try:
        values = json.loads(body)
    except ValueError as error:
        raise UsageError("the body is not JSON") from error
    if not isinstance(values, dict):
        raise UsageError("the body must be a JSON object")
    return values


def _position(values: dict[str, Any]) -> int:
    at = values.get("at")
    if isinstance(at, str) and at.isascii() and at.isdecimal() and len(at) < 10:
        return int(at)
    if isinstance(at, int) and not isinstance(at, bool):
        return at
    raise UsageError("at must be a position in the queue")


def _seconds(values: dict[str, Any]) -> float:
    seconds = values.get("seconds", 0)
    return float(seconds) if isinstance(seconds, int | float) and abs(seconds) < 1e9 else 0.0


def _has_screen() -> bool:
    """Returns whether a browser would get a window; elsewhere it could take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def serve(
    session: Session,
    opened: Callable[[str], None],
    *,
    port: int = 0,
    reviewer: str | None = None,
    browser: bool = True,
) -> None:
    """Serves the page until Ctrl-C; calls `opened` with its address, which has the token in it.

    `port` 0 is a free one. With `browser` it opens the address there. Raises MissingExtraError without the
    extra `review`, UsageError if the port is taken.
    """
    require_extra()
    import uvicorn

    token = secrets.token_urlsafe(32)
    # With the protocol named, asyncio sends each answer at once; else a step waits 40 ms for a delayed ACK.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listening:
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on port {port}: {error.strerror}", "name another --port, or none"
            ) from error
        listening.listen()
        address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
        config = uvicorn.Config(
            application(session, token, reviewer),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        opened(address)
        if browser and _has_screen():
            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listening])
