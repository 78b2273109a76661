"""A store with topics, a judge whose grades are known, and kills of commands that ask a language model."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.store.database import Database
from miner.store.runs import StoredRun
from tests.serving import Server, words_vectors
from tests.stores import make_store

SEED, DIMENSION, THRESHOLD = 1, 64, 0.35
KIND = f"words:{SEED}:{DIMENSION}"
CHAT = "/v1/chat/completions"
JUDGE = (KIND, "--threshold", str(THRESHOLD))
"""A judge that calls a document relevant if its cosine with the query reaches THRESHOLD."""


def topics(path: Path, number: int = 20, *, documents: int = 6) -> tuple[Database, StoredRun]:
    """Returns a store with a query and two positives per topic, and a run with many suspected positives."""
    rng = random.Random(number)
    words = [[f"w{topic}x{i}" for i in range(12)] for topic in range(number)]
    all_words = [word for of_topic in words for word in of_topic]
    texts, queries, judgments = {}, {}, []
    for topic, own in enumerate(words):
        for n in range(documents):
            texts[f"d{topic}-{n}"] = " ".join(rng.choices(own, k=8) + rng.choices(all_words, k=4))
        queries[f"q{topic}"] = " ".join(rng.choices(own, k=5))
        judgments += [(f"q{topic}", f"d{topic}-0"), (f"q{topic}", f"d{topic}-1")]
    store = make_store(path, texts, queries, judgments)
    return store, mine(store, MiningConfig(rules=Rules(relative_margin=0.3)))


def truth(store: Database) -> dict[tuple[str, str], bool]:
    """Returns what the judge says of every pair of a query and a document of a store."""
    queries = store.rows("SELECT query_id, text FROM queries")
    documents = store.rows("SELECT doc_id, text FROM documents")
    rows = words_vectors([text for _, text in [*queries, *documents]], SEED, DIMENSION).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    relevant = rows[: len(queries)] @ rows[len(queries) :].T >= THRESHOLD
    return {
        (query, doc): bool(relevant[i, j])
        for i, (query, _) in enumerate(queries)
        for j, (doc, _) in enumerate(documents)
    }


def texts_sent(server: Server) -> list[str]:
    """Returns the data of every request so far."""
    return [one["body"]["messages"][1]["content"] for one in server.seen(CHAT)]


def killed_before_a_commit(
    command: Sequence[str], server: Server, store: Path, answers: int, at_once: int
) -> list[str]:
    """Kills a command that asks, after so many answers, none of which it could commit.

    Another reader has the store open meanwhile. Then the server falls silent, so that every answer was read.
    Returns the data of the requests that were under way.
    """
    before = len(server.seen(CHAT))

    def wait_for(number: int, under_way: int) -> list[dict[str, Any]]:
        """Waits until so many requests have an answer and so many none; returns the latter."""
        while True:
            now = server.seen(CHAT)[before:]
            silent = [one for one in now if not one["answered"]]
            if (len(now) - len(silent), len(silent)) == (number, under_way):
                return silent
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end, f"{len(now)} requests, {len(silent)} under way"
            time.sleep(0.01)

    server.faults(answers=0)
    end = time.monotonic() + 300
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(0, 1)  # the first is sent alone, until it is known what the server accepts
        with Database.open(store, read_only=True, wait=60) as reader, reader.kept_open():
            server.faults(answers=answers - 1)  # the first one is answered as the faults change
            silent = wait_for(answers, at_once)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    server.faults()
    return [one["body"]["messages"][1]["content"] for one in silent]
