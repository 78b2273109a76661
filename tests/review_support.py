"""The server of `miner review` in a process of its own, a store of readable texts, and a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from tests.stores import make_store

DOCUMENTS = {
    "pump-cold": "Modern heat pumps work down to minus 25 degrees. Below freezing they need more "
    "electricity for the same heat, so a house should be insulated first.",
    "pump-frost": "In freezing weather the outdoor unit of a heat pump frosts. It defrosts itself every hour "
    "or so, and the house stays warm meanwhile.",
    "pump-how": "A heat pump moves heat from the air outside into the house. " * 30,
    "fridge": "A refrigerator works as a heat pump does: it moves heat out of its inside.",
    "tape": "Heat tape keeps water pipes from freezing in winter weather.",
    "boiler": "A gas boiler heats water for the radiators of a house in winter.",
    "panel": "Solar panels work better in cold weather, and not at all under snow.",
    "frame": "A cold frame protects seedlings from freezing weather in early spring.",
    "dough-cold": "Sourdough bread rises slowly in the cold: leave the dough in the fridge for 12 to 18 "
    "hours.",
    "dough-warm": "At room temperature a sourdough rises in four to six hours.",
    "starter": "A sourdough starter needs flour, water and some days of patience.",
    "rye": "Rye bread with sourdough keeps for a week.",
    "yeast": "Yeast dough rises within an hour in a warm room.",
    "marked-up": "Bread <img src=x onerror=\"document.title='run'\"> rises & <b>falls</b> in the cold.",
}
TITLES = {
    "pump-cold": "Heat pumps in winter",
    "pump-frost": "Defrosting",
    "pump-how": "How heat pumps work",
    "dough-cold": "Overnight dough",
    "tape": "Heat tape",
}
QUERIES = {
    "q1": "do heat pumps work in freezing winter weather?",
    "q2": "how long does sourdough bread rise in the cold?",
}
JUDGED = [("q1", "pump-cold"), ("q2", "dough-cold")]


def readable_store(path: Path, without: str = "") -> Path:
    """Returns the path of a store of two queries with a finished run; it leaves one document out."""
    documents = {doc_id: text for doc_id, text in DOCUMENTS.items() if doc_id != without}
    with make_store(path, documents, QUERIES, JUDGED, titles=TITLES) as store:
        mine(store, MiningConfig(rules=Rules(), selection=Selection(negatives=5)), name="mined")
    return path


@dataclass
class Served:
    """A server that runs."""

    address: str
    """With the token."""
    process: subprocess.Popen[str]

    @property
    def origin(self) -> str:
        return self.address.split("/?")[0]

    @property
    def port(self) -> int:
        return int(self.origin.rpartition(":")[2])

    @property
    def token(self) -> str:
        return self.address.partition("token=")[2]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def serving_review(store: Path, *options: str) -> Iterator[Served]:
    """Runs `miner review` until the end of the block, then ends it as Ctrl-C does."""
    words = [sys.executable, "-m", "miner", "review", str(store), "--no-browser", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}", address):
            process.kill()
            raise AssertionError(f"{address!r} {process.communicate()}")
        yield Served(address, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Starts the browser of the machine, which CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
