"""The page of `miner review`: a real server process, asked over HTTP and by a real browser.

The server answers only who has the token, and no page of another origin. What was pressed is in the store
before the page hears of it. The page works by keyboard alone, for two people at once, and on a phone.
"""

from __future__ import annotations

import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from miner.errors import MissingExtraError, StoreError
from miner.review.server import require_extra
from miner.store.database import Database
from tests.review_support import CHROMIUM, QUERIES, Served, chromium, readable_store, serving_review

with_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return readable_store(tmp_path / "s.duckdb")


@pytest.fixture
def served(store: Path) -> Iterator[Served]:
    with serving_review(store) as running:
        yield running


def client(served: Served, **headers: str) -> httpx2.Client:
    return httpx2.Client(base_url=served.origin, headers={"X-Review-Token": served.token, **headers})


def rows(store: Path) -> list[tuple[Any, ...]]:
    """Returns every press in the store."""
    with Database.open(store, read_only=True) as opened:
        return opened.rows("SELECT number, query_id, doc_id, answer, reviewer FROM reviews ORDER BY number")


# --- without a browser


def test_only_who_has_the_token_is_answered(served: Served) -> None:
    with httpx2.Client(base_url=served.origin) as stranger:
        for path in (
            "/",
            "/?token=",
            "/?token=wrong",
            f"/?token={served.token}x",
            "/review.js",
            "/api/start",
        ):
            answer = stranger.get(path)
            assert answer.status_code == 403, path
            assert "set-cookie" not in answer.headers
            assert "token is missing or wrong" in answer.json()["error"]
        assert stranger.get("/api/start", headers={"X-Review-Token": "ü".encode()}).status_code == 403
        first = stranger.get(f"/?token={served.token}")
        assert first.status_code == 200
        cookie = first.headers["set-cookie"]
        assert f"miner_review_{served.port}={served.token}" in cookie
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert stranger.get("/api/start").json()["of"] > 5, "the cookie is enough from now on"
        assert stranger.get(f"/api/start?token={served.token}", headers={"Cookie": "no"}).status_code == 403


def test_other_origins_and_hosts_are_refused_even_with_the_token(served: Served, store: Path) -> None:
    body = {"at": 0, "answer": "relevant", "reviewer": "eve", "seconds": 1}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": ""},
    ):
        with client(served, **headers) as other:
            assert other.get("/api/start").status_code == 403, headers
            assert other.post("/api/answer", json=body).status_code == 403, headers
    assert rows(store) == []


def test_the_page_may_load_nothing_but_its_own_files(served: Served) -> None:
    with client(served) as own:
        for path in ("/", "/review.js", "/review.css", "/icon.svg", "/api/start", "/nothing"):
            headers = own.get(path).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
        page = own.get("/").text + own.get("/review.js").text + own.get("/review.css").text
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "innerHTML" not in page
    with client(served, Host=f"localhost:{served.port}") as own:
        assert own.get("/api/start").status_code == 200, "an SSH tunnel ends at localhost"


def test_it_listens_on_this_machine_only(served: Served) -> None:
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses:
        if not str(address).startswith("127."):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((str(address), served.port), timeout=5)


def test_an_answer_is_stored_and_only_then_the_machine_speaks(served: Served, store: Path) -> None:
    with client(served) as anna:
        before = anna.get("/api/item", params={"at": 0, "reviewer": "anna"}).json()
        assert before["machine"] is None
        assert before["query"] in QUERIES.values()
        body = {"at": 0, "answer": "relevant", "reviewer": " anna ", "seconds": 2.5}
        done = anna.post("/api/answer", json=body).json()
        assert (done["answered"], done["next"], done["reviewers"]) == (1, 1, ["anna"])
        assert done["machine"]["scores"][0]["scorer"] == "bm25"
        assert rows(store) == [(1, before["query_id"], before["doc_id"], "relevant", "anna")]
        after = anna.get("/api/item", params={"at": 0, "reviewer": "anna"}).json()
        assert after["machine"] == done["machine"]
        assert anna.get("/api/item", params={"at": 0, "reviewer": "ben"}).json()["machine"] is None
        undone = anna.post("/api/undo", json={"reviewer": "anna"}).json()
        assert (undone["at"], undone["answered"]) == (0, 0)
        assert anna.get("/api/item", params={"at": 0, "reviewer": "anna"}).json()["machine"] is None


def test_a_wrong_answer_is_refused(served: Served, store: Path) -> None:
    right = {"at": 0, "answer": "relevant", "reviewer": "anna"}
    with client(served) as own:
        for wrong in (
            *({"at": at} for at in (99, -1, True, "1e3", 0.5, None)),
            *({"answer": answer} for answer in ("undone", "", None, 1)),
            *({"reviewer": name} for name in ("", " ", "a\nb\x1b", "a" * 61, 5, None)),
        ):
            answer = own.post("/api/answer", json=right | wrong)
            assert answer.status_code == 400, wrong
            assert answer.json()["error"]
        json = {"Content-Type": "application/json"}
        assert own.post("/api/answer", json=["relevant"]).status_code == 400
        assert own.post("/api/answer", content="{", headers={"Content-Type": "text/plain"}).status_code == 400
        assert own.post("/api/answer", content="{", headers=json).status_code == 400
        assert own.post("/api/answer", content=b" " * 100_000, headers=json).status_code == 400
    assert rows(store) == []


def test_two_people_press_at_once_and_every_press_is_a_row(served: Served, store: Path) -> None:
    with client(served) as own:
        of = own.get("/api/start").json()["of"]

        def _presses(name: str) -> None:
            for at in [*range(of)] * 3:
                answer = own.post("/api/answer", json={"at": at, "answer": "unsure", "reviewer": name})
                assert answer.status_code == 200

        with ThreadPoolExecutor() as pool:
            list(pool.map(_presses, ["anna", "ben", "carl"]))
        found = rows(store)
        assert [number for number, *_ in found] == list(range(1, 9 * of + 1))
        assert own.get("/api/summary").json()["reviewers"] == {"anna": of, "ben": of, "carl": of}


def test_a_kill_loses_nothing_and_the_next_start_goes_on(store: Path) -> None:
    with serving_review(store) as first, client(first) as own:
        for at in range(4):
            own.post("/api/answer", json={"at": at, "answer": "relevant", "reviewer": "anna", "seconds": 1})
        with pytest.raises(StoreError, match="miner review"):
            Database.open(store, wait=0.1)
        first.kill()
    assert len(rows(store)) == 4
    with serving_review(store, "--reviewer", "anna") as second, client(second) as own:
        assert own.get("/api/start").json()["reviewer"] == "anna"
        state = own.get("/api/state", params={"reviewer": "anna"}).json()
        assert (state["answered"], state["next"]) == (4, 4)
        with client(second, **{"X-Review-Token": first.token}) as old:
            assert old.get("/api/start").status_code == 403, "a token is for one start"


def test_search_finds_queries_documents_and_ids(served: Served) -> None:
    with client(served) as own:

        def _found(text: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = own.get("/api/find", params={"text": text, "reviewer": "a"}).json()
            return found

        everything = own.get("/api/start").json()["of"]
        assert 0 < len(_found("SOURDOUGH bread")) < everything
        assert [one["document"].partition(" ")[0] for one in _found("fridge") if "refrig" in one["document"]]
        assert _found("nothing like this") == _found(" ") == []


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match="the server of the review page is not installed"):
        require_extra()


def test_a_port_that_is_taken_is_an_error(served: Served, tmp_path: Path) -> None:
    other = readable_store(tmp_path / "other.duckdb")
    with (
        pytest.raises(AssertionError, match=f"cannot listen on port {served.port}"),
        serving_review(other, "--port", str(served.port)),
    ):
        pass


# --- with a browser


class Page:
    """A person's page; it collects what the console complains about."""

    def __init__(self, browser: Any, address: str, name: str = "", **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        if name:
            self.page.locator("#name").fill(name)
            self.press("Enter")
            self.status("Candidate")

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def status(self, text: str) -> None:
        """Waits until the line of the status has a text."""
        self.page.locator("#status").filter(has_text=text).wait_for()

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def is_shown(self, selector: str) -> bool:
        return bool(self.page.locator(selector).is_visible())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@with_browser
def test_by_keyboard_alone(browser: Any, served: Served, store: Path) -> None:
    anna = Page(browser, served.address)
    assert anna.page.url == f"{served.origin}/", "the token does not stay in the address"
    anna.page.locator("#name").wait_for()
    anna.page.keyboard.type("anna")
    anna.press("Enter")
    anna.status("Candidate 1 of")
    assert not anna.is_shown("#machine")
    query = anna.text("#query")
    assert query in QUERIES.values()
    assert anna.page.evaluate("document.activeElement.id") == "query"
    assert anna.page.locator("#candidate mark").count() > 0
    anna.press("1")
    anna.status("Saved: relevant")
    anna.status("Candidate 2 of")
    assert "Saved: relevant" in anna.text("#live")
    anna.press("k")
    anna.status("answered: relevant")
    assert anna.is_shown("#machine")
    assert "bm25" in anna.text("#scores")
    anna.press("u")
    anna.status("Undone.")
    assert not anna.is_shown("#machine")
    for key, answer in (("2", "not relevant"), ("3", "unsure")):
        anna.press(key)
        anna.status(f"Saved: {answer}")
    anna.press("j")
    anna.status("Candidate 4 of")
    anna.press("?")
    assert anna.is_shown("#help-dialog")
    anna.press("1")
    anna.press("Escape")
    assert not anna.is_shown("#help-dialog")
    anna.press("/")
    anna.page.keyboard.type("refrigerator")
    anna.press("Enter")
    anna.page.locator("#found button").first.wait_for()
    for _ in range(2):
        anna.press("Tab")
    anna.press("Enter")
    anna.page.locator("#candidate", has_text="refrigerator").wait_for()
    anna.page.locator("#search-dialog").wait_for(state="hidden")
    while not anna.page.evaluate("document.activeElement.dataset.answer === 'unsure'"):
        anna.press("Tab")
    anna.press("Space")
    anna.status("Saved: unsure")
    assert [row[3] for row in rows(store)] == ["relevant", "undone", "not relevant", "unsure", "unsure"]
    assert anna.complaints == []


@with_browser
def test_by_mouse_to_the_end(browser: Any, served: Served) -> None:
    anna = Page(browser, served.address, "anna")
    of = int(anna.text("#count").split()[2])
    for _ in range(of):
        before = anna.text("#count")
        anna.page.get_by_role("button", name="Not relevant").click()
        anna.page.locator("#count").filter(has_not_text=before).wait_for()
    assert "Every pair has your answer" in anna.text("#done")
    anna.page.get_by_role("button", name="Figures").click()
    anna.page.locator("#figures-dialog").wait_for()
    assert f"{of} of {of} pairs reviewed" in anna.text("#figures")
    anna.page.get_by_role("button", name="Close").click()
    anna.page.get_by_role("button", name="Undo").click()
    anna.status("Undone.")
    assert anna.text("#count") == f"{of - 1} of {of} answered"
    assert anna.complaints == []


@with_browser
def test_texts_are_texts_and_long_ones_are_folded(browser: Any, served: Served) -> None:
    anna = Page(browser, served.address, "anna")
    for words, inside in (("falls", "<img src=x"), ("moves heat from the air", "A heat pump moves")):
        anna.press("/")
        anna.page.locator("#search").fill(words)
        anna.press("Enter")
        anna.page.locator("#found button").first.click()
        anna.page.locator("#candidate", has_text=inside).wait_for()
    assert anna.page.title() == "miner review"
    assert anna.page.locator("#main img").count() == 0
    more = anna.page.get_by_role("button", name="Show all 360 words")
    assert more.get_attribute("aria-expanded") == "false"
    before = anna.page.locator("#candidate .text").bounding_box()["height"]
    more.click()
    assert anna.page.locator("#candidate .text").bounding_box()["height"] > before
    assert anna.complaints == []


@with_browser
def test_two_people_and_their_conflicts(browser: Any, served: Served, store: Path) -> None:
    anna, ben = (Page(browser, served.address, name) for name in ("anna", "ben"))
    anna.press("1")
    anna.status("Saved: relevant")
    assert "0 of" in ben.text("#count")
    assert not ben.is_shown("#machine")
    ben.press("2")
    ben.status("Saved: not relevant")
    anna.press("2")
    ben.press("2")
    for one in (anna, ben):
        one.status("Saved: not relevant")
        one.status("Candidate 3 of")
    assert sorted(row[4] for row in rows(store)) == ["anna", "anna", "ben", "ben"]
    ben.page.get_by_role("button", name="Figures").click()
    ben.page.locator("#figures-dialog").wait_for()
    assert "Cohen's kappa" in ben.text("#figures")
    ben.page.locator("#figures .list button").click()
    ben.status("Candidate 1 of")
    assert ben.is_shown("#machine")
    assert anna.complaints == ben.complaints == []


@with_browser
def test_a_server_that_is_killed_is_reported_and_nothing_is_lost(browser: Any, store: Path) -> None:
    with serving_review(store) as first:
        anna = Page(browser, first.address, "anna")
        for number in range(1, 4):
            anna.press("1")
            anna.status(f"Candidate {number + 1} of")
        first.kill()
        anna.press("1")
        anna.page.locator("#problem").filter(has_text="What you answered so far is stored").wait_for()
        assert "3 of" in anna.text("#count")
    assert len(rows(store)) == 3
    with serving_review(store) as second:
        again = Page(browser, second.address, "anna")
        assert "3 of" in again.text("#count")
        again.status("Candidate 4 of")
        again.press("u")
        again.status("Candidate 3 of")
        assert again.complaints == []


@with_browser
def test_a_wrong_token_shows_nothing(browser: Any, served: Served) -> None:
    page = Page(browser, f"{served.origin}/?token=wrong").page
    assert "the token is missing or wrong" in page.content()
    assert all(query not in page.content() for query in QUERIES.values())


@contextmanager
def other_origin(content: str) -> Iterator[str]:
    """Serves a page on another port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Writes nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


@with_browser
def test_a_page_of_another_origin_can_do_nothing(browser: Any, served: Served, store: Path) -> None:
    """It even has the token, and the browser has the cookie."""
    attack = f"""<iframe id="frame" src="{served.address}"></iframe>
        <form id="form" method="post" enctype="text/plain" target="frame" action="{served.origin}/api/undo">
        <input name='{{"reviewer":"anna","x":"' value='"}}'></form><script>
        const body = JSON.stringify({{at: 1, answer: "relevant", reviewer: "anna", seconds: 1}});
        const send = (headers, credentials) => fetch("{served.origin}/api/answer",
            {{method: "POST", mode: headers ? "cors" : "no-cors", credentials, body, headers}});
        window.result = Promise.allSettled([send(undefined, "include"),
            send({{"Content-Type": "application/json", "X-Review-Token": "{served.token}"}}, "omit"),
            fetch("{served.origin}/api/start", {{credentials: "include"}})])
            .then((all) => all.map((one) => one.status === "fulfilled" ? one.value.type : "failed"));
        document.getElementById("form").submit();
        </script>"""
    anna = Page(browser, served.address, "anna")
    anna.press("1")
    anna.status("Saved: relevant")
    with other_origin(attack) as address:
        page = anna.context.new_page()
        page.goto(address)
        assert page.evaluate("window.result") == ["failed"] * 3
        frame = page.frames[1]
        assert all(query not in frame.content() for query in QUERIES.values())
    assert len(rows(store)) == 1


@with_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, served: Served, scheme: str) -> None:
    size = {"width": 360, "height": 740}
    anna = Page(browser, served.address, "anna", viewport=size, color_scheme=scheme, has_touch=True)

    def _fits() -> bool:
        return bool(anna.page.evaluate("document.documentElement.scrollWidth <= 360"))

    assert _fits()
    buttons = anna.page.locator(".answers button")
    for number in range(buttons.count()):
        box = buttons.nth(number).bounding_box()
        assert box["height"] >= 40
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 740
    buttons.first.tap()
    anna.status("Saved: relevant")
    anna.page.locator("#back").tap()
    anna.page.locator("#machine").wait_for()
    assert _fits()
    anna.page.get_by_role("button", name="Figures").tap()
    anna.page.locator("#figures-dialog").wait_for()
    assert _fits()
    assert anna.complaints == []


@with_browser
def test_every_control_has_a_name_and_every_text_enough_contrast(browser: Any, served: Served) -> None:
    for scheme in ("light", "dark"):
        anna = Page(browser, served.address, "anna", color_scheme=scheme)
        nameless = anna.page.evaluate(
            """() => [...document.querySelectorAll("button, input, summary")]
                .filter((one) => !(one.textContent.trim() || one.labels?.length || one.ariaLabel))
                .map((one) => one.outerHTML)"""
        )
        assert nameless == []
        ratios = anna.page.evaluate(_CONTRAST)
        assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


_CONTRAST = """() => {
    const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255)
        .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
        .reduce((sum, one, n) => sum + one * [0.2126, 0.7152, 0.0722][n], 0);
    const ground = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        return color === "rgba(0, 0, 0, 0)" && node.parentElement ? ground(node.parentElement) : color;
    };
    const found = {};
    const names = "#query #query-label #count mark .id .question #status kbd #who".split(" ");
    for (const name of names) {
        const node = document.querySelector(name);
        const two = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
        found[name] = (two[0] + 0.05) / (two[1] + 0.05);
    }
    return found;
}"""
