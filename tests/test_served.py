"""Served models, against a real server in a process of its own (tests/serving.py)."""

from __future__ import annotations

import email.utils
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest

from miner.engine.progress import Advance
from miner.errors import MinerError, MissingExtraError, ModelError, UsageError, install_command
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.mining.config import MiningConfig, Selection
from miner.mining.pipeline import mine
from miner.models.cached_encoder import CachedEncoder
from miner.models.encoder import Encoder
from miner.models.endpoint import KEY, Endpoint, is_served
from miner.models.loading import names_reranker, open_encoder, open_reranker
from miner.models.names import resolve
from miner.models.reranker import Reranker
from miner.models.served import PROBE, ServedEncoder, ServedReranker, require_same_model
from miner.models.vector_cache import VectorCache
from miner.retrieval.config import DenseConfig
from miner.retrieval.dense import Dense
from miner.store.database import Database
from tests.serving import Server, words_scores, words_vectors
from tests.stores import make_store
from tests.tiny import tiny_bert

WORDS = "words:1:8"
SECRET = "sk-very-secret-4711"
TEXTS = [f"text number {i} about {topic}" for i in range(50) for topic in ("bread", "rivers", "moss")]


class Notes:
    """A progress that keeps its notes, and calls `at_work` whenever work was done."""

    def __init__(self, at_work: Callable[[], None] = lambda: None) -> None:
        self.notes: list[str] = []
        self.units = 0
        self._at_work = at_work

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        def advance(units: int) -> None:
            self.units += units
            self._at_work()

        yield advance

    def note(self, message: str) -> None:
        self.notes.append(message)


def unit(texts: list[str], kind: str = WORDS) -> np.ndarray:
    """Returns the vectors of the words model, of length 1."""
    rows = words_vectors(texts, *(int(number) for number in kind.split(":")[1:]))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@contextmanager
def serving(kind: str = WORDS, *options: str) -> Iterator[Server]:
    server = Server(kind, *options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving(WORDS, "--version", "0.1") as server:
        yield server


@pytest.fixture
def small(running: Server) -> Iterator[Server]:
    """Returns a server of the words model whose answers are right until a test says otherwise."""
    running.faults()
    yield running
    running.faults()


def store_in(folder: Path) -> Database:
    folder.mkdir(exist_ok=True)
    topics = ("lentils", "copper", "glaciers", "violins", "harbours", "moss", "ferries", "castles")
    documents = {
        f"d{i}{j}": f"{topic} and their {use}"
        for i, topic in enumerate(topics)
        for j, use in enumerate(("history", "uses", "price", "makers"))
    }
    queries = {f"q{i}": f"what is known of {topic} and their history" for i, topic in enumerate(topics)}
    judged = [(f"q{i}", f"d{i}0", "train" if i < 5 else "test") for i in range(len(topics))]
    return make_store(folder / "my.duckdb", documents, queries, judged)


# The same answers as the local model


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("served") / "cross", labels=1)


@pytest.fixture(scope="module")
def real(things: Path) -> Iterator[Server]:
    with serving("bundled", "--reranker", str(things)) as server:
        yield server


def test_vectors_equal_those_of_the_local_model(real: Server) -> None:
    local, served = Encoder("bundled", dtype="fp32"), open_encoder(real.model)
    assert served.similarity == local.similarity == "cosine"
    assert served.dimension == local.dimension == 384
    for prompt in ("", "query: "):
        found = served.encode(TEXTS, prompt, workers=3)
        np.testing.assert_allclose(found, local.encode(TEXTS, prompt), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert served.encode([]).shape == (0, 384)


def test_hits_equal_those_of_the_local_model(real: Server, tmp_path: Path) -> None:
    from miner.collection.collection import Collection

    with store_in(tmp_path) as store:
        collection = Collection.load(store, "train")
        hits = [
            Dense(store, collection, DenseConfig(name, dtype="fp32")).search(range(5), 10)
            for name in ("bundled", real.model)
        ]
    assert len(hits[0].doc) == 50
    for column in ("query", "doc", "rank"):
        assert np.array_equal(getattr(hits[0], column), getattr(hits[1], column)), column
    np.testing.assert_allclose(hits[0].score, hits[1].score, atol=1e-5)


def test_scores_equal_those_of_the_local_reranker_in_both_forms(real: Server, things: Path) -> None:
    queries = [f"what about {topic}" for topic in ("bread", "moss", "rivers") for _ in range(40)]
    documents = TEXTS[: len(queries)]
    expected = Reranker(str(things), dtype="fp32").score(queries, documents)
    forms = {real.model: "/v1/rerank", f"http://127.0.0.1:{real.port}#{real.name}": "/rerank"}
    for name, path in forms.items():
        served = open_reranker(name)
        before = len(real.seen(path))
        np.testing.assert_allclose(served.score(queries, documents), expected, atol=1e-5)
        # One query a request, with 32 of its 40 documents at most; then the probe.
        requests = real.seen(path)[before:]
        field = "documents" if path == "/v1/rerank" else "texts"
        assert sorted(len(one["body"][field]) for one in requests) == [3, 8, 8, 8, 32, 32, 32]
    assert open_reranker(real.model).score([], []).shape == (0,)


def test_the_kind_of_a_served_model_is_found_out(small: Server) -> None:
    assert not names_reranker(small.model)
    with serving(WORDS, "--paths", "/v1/rerank") as other:
        assert names_reranker(other.model)
    with serving(WORDS, "--paths", "/v1/chat") as other, pytest.raises(ModelError, match="neither"):
        names_reranker(other.model)


# Mining and measuring


def test_mining_asks_for_a_text_once(small: Server, tmp_path: Path) -> None:
    notes = Notes()
    with store_in(tmp_path) as store:
        config = MiningConfig(encoder=small.model, bm25=False, selection=Selection(negatives=2))
        run = mine(store, config, progress=notes)
        texts = [text for one in small.seen() for text in one["body"]["input"]]
        assert len(texts) - texts.count(PROBE) == len(set(texts) - {PROBE}) == 32 + 5
        again = mine(store, config, name="again", progress=notes)
        rows = "SELECT query_id, negative_id FROM triplets WHERE run_id = ? ORDER BY ALL"
        assert store.rows(rows, [run.run_id]) == store.rows(rows, [again.run_id])
        assert len(store.rows(rows, [run.run_id])) == 10
    texts = [text for one in small.seen() for text in one["body"]["input"]]
    assert len(texts) - texts.count(PROBE) == 32 + 5
    assert (
        f"encoder {small.model} computes in the server's precision on 127.0.0.1:{small.port}" in notes.notes
    )


def test_a_served_model_is_measured(small: Server, tmp_path: Path) -> None:
    with store_in(tmp_path) as store, serving(WORDS, "--paths", "/v1/rerank") as other:
        (encoder,) = evaluate(store, small.model)
        (reranker,) = evaluate(store, other.model, EvaluationConfig(depth=5))
        with pytest.raises(UsageError, match="is a reranker"):
            evaluate(store, small.model, EvaluationConfig(against=(other.model,)))
    assert encoder.task == "retrieval"
    assert reranker.task == "reranking"
    assert 0 < encoder.means[encoder.headline] <= 1


def test_a_served_model_is_not_trained(small: Server) -> None:
    """Every training resolves its base and its guide to a folder of weights."""
    for use in (resolve, Encoder, Reranker):
        with pytest.raises(ModelError, match=r"a server runs small \(127.* its weights are needed here"):
            use(small.model)


def test_the_commands_of_the_page_run(real: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from miner.cli.main import group
    from tests.test_docs_commands import blocks, commands, missing

    monkeypatch.chdir(tmp_path)
    with store_in(tmp_path):
        pass
    page = Path(__file__).parent.parent / "docs" / "served.md"
    reranker = f"http://127.0.0.1:{real.port}#{real.name}"
    examples = {
        "http://localhost:8080/v1#BAAI/bge-small-en-v1.5": real.model,
        "http://localhost:8081#BAAI/bge-reranker-v2-m3": reranker,
    }
    ran = 0
    for block in blocks(page, "sh"):
        for words in commands(block):
            for example, model in examples.items():
                words = [word.replace(example, model) for word in words]
            result = CliRunner().invoke(group, words)
            assert result.exit_code == 0, result.output
            printed = result.output
            for example, model in examples.items():
                printed = printed.replace(model, example)
            printed = printed.replace(f"127.0.0.1:{real.port}", "localhost:8080")
            printed = printed.replace(f"bm25 + {real.name}", "bm25 + BAAI/bge-small-en-v1.5")
            assert missing(block.shown, printed, exact=False) == []
            ran += 1
    assert ran == 5


# Failures


def test_busy_and_failing_answers_are_survived(small: Server) -> None:
    encoder, notes = ServedEncoder(small.model), Notes()
    small.faults(statuses=[429, 500, 503, 429], retry_after="1")
    started = time.monotonic()
    np.testing.assert_allclose(encoder.encode(TEXTS, progress=notes), unit(TEXTS), atol=1e-6)
    assert time.monotonic() - started >= 1
    assert sorted(note.split(" (")[0] for note in notes.notes) == [
        f"{small.url}: it answers {status}" for status in (429, 500, 503)
    ]
    assert "not now\\x1b[31m" in str(MinerError(notes.notes[0]))
    reranker = ServedReranker(small.model, progress=notes)
    small.faults(statuses=[502])
    assert reranker.score(["a b"], ["b c"]) == pytest.approx(words_scores("a b", ["b c"], 1))
    assert notes.notes[3].startswith(f"{small.url}: it answers 502")


def test_a_failure_that_lasts_is_an_error(small: Server) -> None:
    encoder = ServedEncoder(small.model, patience=1)
    small.faults(statuses=[500] * 100)
    with pytest.raises(ModelError, match=r"does not answer: it answers 500 \(not now") as failure:
        encoder.encode(["a text"])
    assert "finished work is kept" in failure.value.hint
    small.faults(statuses=[429], retry_after="3600")
    with pytest.raises(ModelError, match=r"it answers 429 .*, and asks to wait 3,600 s"):
        encoder.encode(["a text"])


def test_the_wait_may_be_a_date() -> None:
    import httpx2

    from miner.models.endpoint import _retry_after

    def waits(header: str) -> float | None:
        return _retry_after(httpx2.Response(429, headers={"Retry-After": header}))

    assert waits("7") == 7
    assert waits(email.utils.formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert waits(email.utils.formatdate(time.time() - 30, usegmt=True)) == 0
    assert waits("soon") is None
    assert _retry_after(httpx2.Response(429)) is None


def restarted(server: Server, kind: str, *options: str) -> tuple[Notes, Callable[[], None]]:
    """Returns a progress that kills the server at the first work done, and a function to wait for another.

    The new server, of `kind`, starts half a second later.
    """
    threads: list[Thread] = []

    def start() -> None:
        time.sleep(0.5)
        server.start(kind, *options)

    def kill() -> None:
        if not threads:
            server.kill()
            threads.append(Thread(target=start))
            threads[0].start()

    return Notes(kill), lambda: threads[0].join()


@pytest.fixture
def own() -> Iterator[Server]:
    with serving(WORDS, "--version", "0.1") as server:
        yield server


def test_a_restart_in_mid_run_is_survived(own: Server, tmp_path: Path) -> None:
    notes, done = restarted(own, WORDS, "--version", "0.1")
    texts = [f"{text} once more {i}" for i in range(8) for text in TEXTS]
    encode = CachedEncoder(tmp_path, ServedEncoder(own.model), workers=2, progress=notes)
    rows = encode.rows(texts, "query")
    found = encode.matrix("query")[rows]
    done()
    np.testing.assert_allclose(found, unit(texts), atol=1e-6)
    assert len(notes.notes) == 1
    assert notes.notes[0].startswith(f"{own.url}: ")
    assert notes.notes[0].endswith("; miner tries again for up to 300 s")
    assert PROBE in [text for one in own.seen() for text in one["body"]["input"]]


def test_another_model_after_a_restart_is_an_error(own: Server, tmp_path: Path) -> None:
    notes, done = restarted(own, "words:2:8", "--version", "0.1")
    encode = CachedEncoder(tmp_path, ServedEncoder(own.model), workers=2, progress=notes)
    with pytest.raises(ModelError, match="has changed while it was used: a fixed text gets another answer"):
        encode.rows(TEXTS, "query")
    done()
    assert len(VectorCache(tmp_path, encode.encoder.fingerprint)) == 1  # the probe


def test_another_model_under_the_same_name_is_an_error(own: Server, tmp_path: Path) -> None:
    CachedEncoder(tmp_path, ServedEncoder(own.model))(["a text"], "query")
    require_same_model(tmp_path, ServedReranker(own.model))
    CachedEncoder(tmp_path, ServedEncoder(own.model))
    for kind, what in (("words:2:8", "another answer"), ("words:1:9", "9 numbers, not 8")):
        own.kill()
        own.start(kind, "--version", "0.1")
        with pytest.raises(ModelError, match=rf"has changed since .* was filled: a fixed text gets {what}"):
            CachedEncoder(tmp_path, ServedEncoder(own.model))
    own.kill()
    own.start("words:2:8", "--version", "0.1")
    with pytest.raises(ModelError, match="gets another answer; serve the earlier model again"):
        require_same_model(tmp_path, ServedReranker(own.model))
    own.kill()
    own.start("words:2:8", "--version", "0.2")  # another version of the server: another fingerprint
    assert CachedEncoder(tmp_path, ServedEncoder(own.model))(["a text"], "query").shape == (1, 8)
    require_same_model(tmp_path, ServedReranker(own.model))


def test_wrong_answers_are_errors(small: Server) -> None:
    encoder = ServedEncoder(small.model)
    small.faults(dimension=4)
    with pytest.raises(ModelError, match="gives vectors of 4 and of 8 numbers: a model has one dimension"):
        encoder.encode(["a text"])
    small.faults(missing=True)
    with pytest.raises(ModelError, match="answers 1 results for 2 texts"):
        encoder.encode(["a text", "another"])
    small.faults(null=["gap"])
    vectors = encoder.encode(["a text", "gap", " "])
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True]
    with pytest.raises(ModelError, match=r"answers 404: The model `other` does not exist\.; check the URL"):
        ServedEncoder(f"{small.url}#other")
    with pytest.raises(ModelError, match=r"/nowhere/embeddings answers 404: Not Found"):
        ServedEncoder(f"http://127.0.0.1:{small.port}/nowhere#small")


def test_texts_that_are_too_long_are_cut_or_named() -> None:
    long = "one very long text " * 9
    with serving(WORDS, "--longest", "110", "--cuts") as server:
        notes = Notes()
        found = ServedEncoder(server.model).encode([*TEXTS[:40], long], progress=notes)
        np.testing.assert_allclose(found, unit([*TEXTS[:40], long[:110]]), atol=1e-6)
        assert notes.notes == ["small refuses texts that are longer than it reads; the server cuts them"]
    with serving(WORDS, "--longest", "110") as server:
        with pytest.raises(
            ModelError, match=r"refuses the text 'one very long .*: maximum length is 110"
        ) as no:
            ServedEncoder(server.model).encode([*TEXTS[:40], long])
        assert "(171 characters)" in no.value.message


def test_a_server_without_base64_and_with_smaller_batches() -> None:
    info = '{"version": "1.8", "model_sha": "abc", "model_dtype": "float16", "max_client_batch_size": 4}'
    with serving(WORDS, "--floats", "--info", info) as server:
        encoder = ServedEncoder(server.model)
        np.testing.assert_allclose(encoder.encode(TEXTS[:9]), unit(TEXTS[:9]), atol=1e-6)
        assert sorted(len(one["body"]["input"]) for one in server.seen()) == [1, 1, 1, 4, 4]
        assert encoder.dtype == "float16"
        own = encoder.fingerprint
    with serving(WORDS, "--info", info.replace("abc", "abd")) as server:
        assert ServedEncoder(server.model).fingerprint != own


def test_no_server_is_an_error_at_once() -> None:
    with serving() as server:
        name = server.model
    started = time.monotonic()
    for use in (ServedEncoder, ServedReranker):
        with pytest.raises(
            ModelError, match=r"no server answers at http://127.0.0.1:.*: connection refused"
        ) as no:
            use(name)
        assert no.value.hint == "start the server, or check the address"
    assert time.monotonic() - started < 5


def test_ctrl_c_ends_requests_at_once(small: Server) -> None:
    script = (
        "import sys; from miner.models.served import ServedEncoder\n"
        "encoder = ServedEncoder(sys.argv[1])\n"
        "print('asking', flush=True)\n"
        "encoder.encode(['slow'] * 500)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, small.model], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    small.faults()
    assert process.stdout.readline() == "asking\n"
    small.faults(delay=20)
    time.sleep(0.5)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert time.monotonic() - started < 5
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors


# Keys and names


def test_a_key_is_sent_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    notes, errors = Notes(), list[str]()
    with serving(WORDS, "--key", SECRET) as server:
        for given in ("", "another-key"):
            monkeypatch.setenv(KEY, given)
            with pytest.raises(ModelError, match="answers 401") as refused:
                ServedEncoder(server.model)
            errors.append(str(refused.value))
        monkeypatch.setenv(KEY, SECRET)
        with store_in(tmp_path / "store") as store:
            mine(store, MiningConfig(encoder=server.model, bm25=False), progress=notes)
        assert {one["headers"]["Authorization"] for one in server.seen()[2:]} == {f"Bearer {SECRET}"}
        server.faults(statuses=[500] * 100)
        with pytest.raises(ModelError) as failed:
            ServedEncoder(server.model, patience=0.1).encode(["a text"])
        errors.append(str(failed.value))
    assert "it wants a key; set the environment variable MINER_API_KEY" in errors[0]
    assert "it does not accept the key; set the environment variable MINER_API_KEY" in errors[1]
    shown = [*notes.notes, *errors, *(record.getMessage() for record in caplog.records)]
    assert not [text for text in shown if SECRET in text or "another-key" in text]
    assert any("HTTP Request" in text for text in shown)  # the logs were looked at
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_key_that_a_header_cannot_carry_is_refused(small: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret\nkey")
    with pytest.raises(UsageError, match="the key in MINER_API_KEY has characters") as refused:
        ServedEncoder(small.model)
    assert "secret" not in str(refused.value)


def test_an_unencrypted_key_for_another_machine_is_warned_of(
    small: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    notes = Notes()
    ServedEncoder(small.model, progress=notes)
    assert notes.notes == []
    # Linux connects 0.0.0.0 to this machine, but it is not a loopback address.
    ServedEncoder(f"http://0.0.0.0:{small.port}/v1#small", progress=notes).encode(["a text"], progress=notes)
    assert notes.notes == [
        f"warning: the key in MINER_API_KEY goes to 0.0.0.0:{small.port} unencrypted; use https"
    ]


def test_a_proxy_is_not_used_for_this_machine(small: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ServedEncoder(small.model).dimension == 8


def test_nothing_listens_beyond_this_machine(small: Server) -> None:
    listening = psutil.CONN_LISTEN
    own = [one for one in psutil.Process(os.getpid()).net_connections("inet") if one.status == listening]
    ServedEncoder(small.model).encode(["a text"])
    after = [one for one in psutil.Process(os.getpid()).net_connections("inet") if one.status == listening]
    assert after == own
    served = psutil.Process(small.process.pid).net_connections("inet")
    assert {one.laddr.ip for one in served if one.status == listening} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://localhost:8080/v1", "does not name a model of the server"),
        ("https://localhost:8080/v1#", "does not name a model of the server"),
        ("http://me:pass@localhost/v1#m", "contains a user or a password"),
        ("https://localhost/v1?api_key=pass#m", "has a query"),
        ("http://localhost:99999/v1#m", "is not a URL"),
        ("http:///v1#m", "names no server"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    assert is_served(name)
    for use in (open_encoder, open_reranker):
        with pytest.raises(UsageError, match=message) as refused:
            use(name)
        assert "pass" not in str(refused.value).replace("password", "")
    with pytest.raises(UsageError, match="decides on its revision"):
        open_encoder("http://localhost:8080/v1#m", revision="main")
    with pytest.raises(UsageError, match="the server decides on its prompt, and no instruction is sent"):
        open_reranker("http://localhost:8080/v1#m", instruction="find refutations")


def test_a_name_is_a_url_and_a_model() -> None:
    assert not any(map(is_served, ("bundled", "./http", "BAAI/bge-small-en-v1.5", "httpx/model")))
    endpoint = Endpoint("HTTPS://Models.example.org/v1/#BAAI/bge#2")
    assert (endpoint.url, endpoint.model) == ("https://Models.example.org/v1", "BAAI/bge#2")
    assert endpoint.places("rerank") == [
        "https://Models.example.org/v1/rerank",
        "https://Models.example.org/rerank",
    ]


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenacity", None)
    with pytest.raises(MissingExtraError, match="the client for served models is not installed") as missing:
        open_encoder("http://localhost:8080/v1#m")
    assert missing.value.hint == install_command(extra="serve")
