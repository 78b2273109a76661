"""Queries from documents by a real server: none asked twice, filters, splits, copies."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.main import group
from miner.curation.dedup import DedupConfig, dedup
from miner.errors import ModelError, UsageError
from miner.export.certificate import facts, render
from miner.generation.config import GenerationConfig
from miner.generation.generate import generate, plan
from miner.generation.questions import queries_in
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.models.chat import ChatAnswer
from miner.store.database import Database
from miner.text import content_id, text_key
from tests.judge_support import CHAT, killed_before_a_commit, texts_sent
from tests.serving import Server
from tests.stores import make_store
from tests.test_judge import tiny_language_model

KIND = "words:1:64"
NUMBER = 12


def words(number: int) -> list[str]:
    return [f"t{number}{letter}" for letter in "abcdefghijkl"]


def queries_of(number: int) -> list[str]:
    """Returns what the server writes about document `number`."""
    return [" ".join(words(number)[start : start + 4]) for start in (0, 4, 8)]


CORPUS = {f"d{number}": " ".join(words(number)) for number in range(NUMBER)}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server(KIND)
    yield running
    running.kill()


@pytest.fixture
def own() -> Iterator[Server]:
    running = Server(KIND)
    yield running
    running.kill()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Database]:
    with make_store(tmp_path / "my.duckdb", CORPUS, {}, []) as store:
        yield store


def sent(server: Server) -> list[str]:
    """Returns the document of every request so far."""
    return [json.loads(one["body"]["messages"][1]["content"])["document"] for one in server.seen(CHAT)]


def written(*queries: str) -> str:
    return json.dumps({"queries": queries}, ensure_ascii=False)


def stored(store: Database) -> set[tuple[str, str, str, str]]:
    """Returns text, document, split and source of every judged query."""
    rows = store.rows("SELECT text, doc_id, split, source FROM judgments JOIN queries USING (query_id)")
    return {(text, doc, split, source) for text, doc, split, source in rows}


def outcomes(store: Database) -> Mapping[str, str]:
    return dict(store.rows("SELECT text, outcome FROM generated_queries"))


def test_queries_have_their_document_as_positive(opened: Database, server: Server) -> None:
    report = generate(opened, server.model, GenerationConfig())
    assert stored(opened) == {
        (query, f"d{number}", "train", "generated")
        for number in range(NUMBER)
        for query in queries_of(number)
    }
    assert (report.documents, report.answered, report.unknown) == (NUMBER, NUMBER, 0)
    assert (report.made, report.kept, dict(report.dropped)) == (3 * NUMBER, 3 * NUMBER, {})
    assert opened.rows("SELECT DISTINCT outcome, rank FROM generated_queries") == [("kept", 1)]
    ids = opened.rows("SELECT query_id, text, text_key FROM queries")
    assert all((query, key) == (content_id("g-", text), text_key(text)) for query, text, key in ids)
    run = mine(opened, MiningConfig(rules=Rules(relative_margin=None)))
    shown = render(facts(opened, run))
    assert "- 36 of source `generated` in split `train`, 36 relevant" in shown
    assert "The language model `small` wrote queries from 12 documents" in shown
    assert "36 written, 36 kept, 0 answers that could not be read. A query was kept if bm25 returned" in shown


def test_no_document_is_sent_twice(opened: Database, own: Server) -> None:
    first = generate(opened, own.model, GenerationConfig(documents=5))
    assert first.requests == 5 == len(sent(own))
    wider = generate(opened, own.model, GenerationConfig(documents=9))
    assert wider.requests == 4
    assert generate(opened, own.model, GenerationConfig(documents=9)).requests == 0
    other = GenerationConfig(documents=9, rank=3, near=0.5, dev=0.2, seed=13, concurrency=2)
    assert generate(opened, own.model, other).requests == 0
    opened.execute("UPDATE documents SET doc_id = 'x' || doc_id")
    assert generate(opened, own.model, GenerationConfig(documents=None)).requests == NUMBER - 9
    assert max(Counter(sent(own)).values()) == 1
    assert generate(opened, own.model, GenerationConfig(documents=2, about="Lawyers.")).requests == 2


def test_only_requests_under_way_at_a_kill_are_sent_again(opened: Database, own: Server) -> None:
    opened.close()
    command = [
        sys.executable, "-m", "miner", "generate", str(opened.path), "--endpoint", own.url,
        "--model", own.name, "--concurrency", "2", "--documents", "none",
    ]  # fmt: skip
    under_way = killed_before_a_commit(command, own, opened.path, 6, 2)
    said: list[str] = []
    with Database.open(opened.path, note=said.append) as again:
        assert said == ["stored 6 answers that an interrupted command had received"]
        assert again.rows("SELECT count(*) FROM queries") == [(0,)]
        report = generate(again, own.model, GenerationConfig(documents=None))
        assert (report.kept, report.documents, report.requests) == (3 * NUMBER, NUMBER, NUMBER - 6)
    documents = Counter(texts_sent(own))
    assert documents - Counter(documents.keys()) == Counter(under_way)
    assert documents.total() == NUMBER + 2


@pytest.mark.parametrize(
    "canned",
    [
        '{"queries": ["t3a t3b"',
        "refused",
        "no choices",
        "Hier sind einige Anfragen: t3a t3b",
        "1. t3a t3b\n2. t3c t3d",
        '["t3a t3b"]',
        '{"queries": "t3a t3b"}',
        '{"queries": ["t3a t3b", ""]}',
        '{"queries": ["t3a t3b", 7]}',
        '{"queries": [{"text": "t3a t3b"}]}',
        '{"query": ["t3a t3b"]}',
        '{"queries": ["t3a"], "queries": ["t3b"]}',
    ],
)
def test_an_answer_that_cannot_be_read_is_counted_and_no_query(
    opened: Database, server: Server, canned: str
) -> None:
    server.faults(canned={"t3a": canned})
    try:
        report = generate(opened, server.model, GenerationConfig())
    finally:
        server.faults()
    assert (report.answered, report.unknown, report.kept) == (NUMBER - 1, 1, 3 * NUMBER - 3)
    assert "d3" not in {doc for _, doc, *_ in stored(opened)}
    assert generate(opened, server.model, GenerationConfig()).requests == 0
    again = generate(opened, server.model, GenerationConfig(again=True))
    assert (again.requests, again.unknown, again.kept) == (1, 0, 3 * NUMBER)


def test_an_empty_list_and_too_many_queries(opened: Database, server: Server) -> None:
    four = written("t4a  t4b\n", "t4c", "t4d", "t4e")
    fenced = f"```json\n{four}\n```"
    server.faults(canned={"t3a": written(), "t4a": f"<think>hm</think> {fenced}"})
    try:
        report = generate(opened, server.model, GenerationConfig(queries=3))
    finally:
        server.faults()
    assert (report.answered, report.made) == (NUMBER, 3 * NUMBER - 3)
    assert {text for text, doc, *_ in stored(opened) if doc == "d4"} == {"t4a t4b", "t4c", "t4d"}


def test_queries_of_other_languages(tmp_path: Path, server: Server) -> None:
    texts = {
        "tr": "İade süresi otuz gündür",
        "ja": "返品は三十日以内に可能です",
        "ar": "مدة الإرجاع ثلاثون يوما",
    }
    people = {"tr": "iade süresi kaç gün", "ja": "返品は何日以内", "ar": "كم مدة الإرجاع"}
    server.faults(canned={texts[one]: written(query) for one, query in people.items()})
    search = MiningConfig(stemmer="none", stopwords="none")
    try:
        with make_store(tmp_path / "s.duckdb", texts, {}, []) as store:
            report = generate(store, server.model, GenerationConfig(search=search))
            assert report.kept == 3
            assert {(text, doc) for text, doc, *_ in stored(store)} == {
                (query, one) for one, query in people.items()
            }
    finally:
        server.faults()


def test_a_query_is_kept_only_if_its_document_comes_back(opened: Database, server: Server) -> None:
    server.faults(canned={"t3a": written("t5a t5b t3c", "t5a t5b t5c t5d", "t3a t3b", CORPUS["d3"].upper())})
    try:
        report = generate(opened, server.model, GenerationConfig(queries=4, rank=1))
    finally:
        server.faults()
    found = outcomes(opened)
    assert found["t5a t5b t3c"] == "not_returned"  # d3 is second
    assert found[CORPUS["d3"].upper()] == "is_document"
    assert dict(report.dropped) == {"is_document": 1, "not_returned": 2}
    assert {text for text, doc, *_ in stored(opened) if doc == "d3"} == {"t3a t3b"}
    second = generate(opened, server.model, GenerationConfig(queries=4, rank=2))
    assert (second.requests, outcomes(opened)["t5a t5b t3c"]) == (0, "kept")
    free = generate(opened, server.model, GenerationConfig(queries=4, rank=None))
    assert free.dropped["is_document"] == 1
    assert ("t5a t5b t5c t5d", "d3", "train", "generated") in stored(opened)  # that d5 says too


def test_several_retrievers(opened: Database, server: Server) -> None:
    server.faults(canned={"t3a": written("t3a unheard-of", "t5a t5b t3c")})
    both = MiningConfig(encoder=(server.model,))
    try:
        one = generate(opened, server.model, GenerationConfig(rank=1, search=both))
        every = generate(opened, server.model, GenerationConfig(rank=1, returned_by="all", search=both))
    finally:
        server.faults()
    assert one.requests == NUMBER
    assert every.requests == 0
    assert every.kept <= one.kept
    (origin,) = opened.meta("generated")
    assert (origin["retrievers"], origin["returned_by"]) == (["bm25", "small"], "all")
    with pytest.raises(UsageError, match="reranker has no effect on the search"):
        GenerationConfig(search=MiningConfig(reranker=("x",)))


def test_near_duplicates_are_dropped(opened: Database, server: Server) -> None:
    server.faults(
        canned={
            "t3a": written("t3a t3b t3c t3d t3e", "T3E, t3d t3c t3b t3a!", "t3f t5f shared"),
            "t5a": written("t5a t5b", "t3f  T5F shared", "t5a t5b"),
        }
    )
    try:
        report = generate(opened, server.model, GenerationConfig())
    finally:
        server.faults()
    assert dict(report.dropped) == {"same_query": 1, "near_duplicate": 2}
    assert sum(report.dropped.values()) + report.kept == report.made
    rows = opened.rows(
        "SELECT text, doc_id, outcome FROM generated_queries WHERE outcome <> 'kept' ORDER BY ALL"
    )
    assert rows == [
        ("T3E, t3d t3c t3b t3a!", "d3", "near_duplicate"),
        ("t3f T5F shared", "d5", "same_query"),
        ("t5a t5b", "d5", "near_duplicate"),
    ]
    both = {doc for text, doc, *_ in stored(opened) if text == "t3f t5f shared"}
    assert both == {"d3", "d5"}


def test_the_queries_of_people_stay_and_are_not_repeated(tmp_path: Path, server: Server) -> None:
    people = {"q1": "T3a t3b, t3c t3d?", "q2": "something else"}
    with make_store(tmp_path / "s.duckdb", CORPUS, people, [("q1", "d3"), ("q2", "d4", "test")]) as store:
        report = generate(store, server.model, GenerationConfig())
        assert dict(report.dropped) == {"near_duplicate": 1}
        assert outcomes(store)["t3a t3b t3c t3d"] == "near_duplicate"
        generate(store, server.model, GenerationConfig(documents=1))
        gold = {row for row in stored(store) if row[3] == "gold"}
        assert gold == {(people["q1"], "d3", "train", "gold"), (people["q2"], "d4", "test", "gold")}
        assert len(stored(store)) == 2 + 3


def test_a_call_replaces_the_queries_of_an_earlier_one(opened: Database, server: Server) -> None:
    assert generate(opened, server.model, GenerationConfig()).replaced == 0
    run = mine(opened, MiningConfig(rules=Rules(relative_margin=None)))
    texts = opened.rows("SELECT * FROM triplet_texts ORDER BY ALL")
    again = generate(opened, server.model, GenerationConfig(documents=4))
    assert (again.kept, again.replaced) == (12, 36)
    assert len(stored(opened)) == 12
    assert opened.rows("SELECT * FROM triplet_texts WHERE run = ? ORDER BY ALL", [run.name]) == texts
    more = generate(opened, server.model, GenerationConfig(add=True, seed=1, documents=4))
    assert more.replaced == 0
    assert 12 < len(stored(opened)) <= 24
    assert len(opened.meta("generated")) == 2
    nothing = generate(opened, server.model, GenerationConfig(about="x", documents=1, budget="1 tokens"))
    assert (nothing.kept, nothing.stopped) == (0, True)
    assert 12 < len(stored(opened)) <= 24


def test_copies_of_the_document_are_no_negatives(tmp_path: Path, server: Server) -> None:
    long = " ".join(words(0))
    copies = {
        "a": long, "b": long.upper(), "c": f"{long} more", "d": f"{long} x y", "e": "t0a t0b t1a t1b t2a",
        "f": "t0e t0f t1a t2b", "g": "t0i t0j t1a t2b t2c",
    }  # fmt: skip
    with make_store(tmp_path / "s.duckdb", copies, {}, [], titles={"d": "T"}) as store:
        dedup(store, DedupConfig(threshold=0.9))
        report = generate(store, server.model, GenerationConfig())
        assert report.documents == 5  # a, b and c are one: the same text, or nearly its words
        mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        negatives = store.rows(
            "SELECT DISTINCT negative_id FROM triplets JOIN judgments USING (query_id) WHERE doc_id = 'a'"
        )
        assert {one for (one,) in negatives}
        assert {one for (one,) in negatives} <= {"e", "f", "g"}


def test_splits_by_document(opened: Database, server: Server) -> None:
    report = generate(opened, server.model, GenerationConfig(dev=0.25, test=0.25))
    assert dict(report.splits) == {"dev": 9, "test": 9, "train": 18}
    by_document: dict[str, set[str]] = {}
    for _, doc, split, _ in stored(opened):
        by_document.setdefault(doc, set()).add(split)
    assert all(len(splits) == 1 for splits in by_document.values())
    before = stored(opened)
    generate(opened, server.model, GenerationConfig(dev=0.25, test=0.25))
    assert stored(opened) == before


def splits_of_documents(store: Database) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for _, doc, split, _ in stored(store):
        found.setdefault(doc, set()).add(split)
    return found


def test_a_document_stays_in_its_split_over_calls(opened: Database, own: Server) -> None:
    generate(opened, own.model, GenerationConfig(documents=6, dev=0.5))
    before = splits_of_documents(opened)
    others = {f"t{n}a": written(*(" ".join(words(n)[at : at + 4]) for at in (2, 6))) for n in range(NUMBER)}
    own.faults(canned=others)
    second = generate(opened, own.model, GenerationConfig(about="x", dev=0.1, add=True))
    generate(opened, own.model, GenerationConfig(about="x", split="test", add=True))
    after = splits_of_documents(opened)
    assert len(before) == 6
    assert len(after) == NUMBER
    assert {doc: after[doc] for doc in before} == before
    assert all(len(splits) == 1 for splits in after.values())
    assert dict(second.splits) == {"dev": 6, "train": 18}


def test_documents_with_a_query_in_common_are_in_one_split(opened: Database, own: Server) -> None:
    shared = " ".join([*words(0)[:3], *words(1)[:3]])
    own.faults(canned={f"t{n}a": written(shared, " ".join(words(n)[6:])) for n in (0, 1)})
    for seed in range(6):
        report = generate(opened, own.model, GenerationConfig(dev=0.4, seed=seed))
        assert report.dropped == {"same_query": 1}
        assert all(len(splits) == 1 for splits in splits_of_documents(opened).values())


def test_a_replaced_query_of_an_old_run_is_no_duplicate(opened: Database, own: Server) -> None:
    generate(opened, own.model, GenerationConfig())
    mine(opened, MiningConfig(rules=Rules(relative_margin=None)))
    generate(opened, own.model, GenerationConfig(documents=1, queries=1))
    own.faults(canned={"t0a": written("t0a t0b t0c t0d t0e")})  # nearly a query that was replaced
    again = generate(opened, own.model, GenerationConfig(about="x"))
    assert (again.made, again.kept) == (3 * NUMBER - 2, 3 * NUMBER - 2)


def test_the_budget_and_the_plan(opened: Database, own: Server) -> None:
    planned = plan(opened, own.model, GenerationConfig(price_in=1.0, price_out=1.0))
    assert (planned.documents, planned.requests, sent(own)) == (NUMBER, NUMBER, [])
    assert planned.money is not None
    assert planned.first.startswith(
        "You write search queries. You get a JSON object with a document. Write 3"
    )
    assert planned.first.endswith(json.dumps({"document": CORPUS["d0"]}))
    small = generate(opened, own.model, GenerationConfig(budget="4 requests", concurrency=1))
    assert (small.requests, small.stopped, small.kept) == (4, True, 12)
    whole = generate(opened, own.model, GenerationConfig(budget="1M tokens"))
    assert (whole.requests, whole.stopped, whole.kept) == (NUMBER - 4, False, 3 * NUMBER)
    part = GenerationConfig(about="Nurses", budget="4 requests", concurrency=1)
    some = generate(opened, own.model, part)
    assert (some.stopped, some.kept, some.replaced) == (True, 0, 0)
    assert len(stored(opened)) == 3 * NUMBER, "a part does not replace the whole"
    assert generate(opened, own.model, replace(part, budget=None)).replaced == 3 * NUMBER


def test_the_prompt_is_the_users(opened: Database, own: Server, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("{number} queries in {language} by {about}: {other}", "utf-8")
    config = GenerationConfig(
        prompt=str(file), about="Nurses", language="Dutch", queries=2, documents=2, characters=7
    )
    generate(opened, own.model, config)
    assert {one["body"]["messages"][0]["content"] for one in own.seen(CHAT)} == {
        "2 queries in Dutch by Nurses: {other}"
    }
    assert all(len(text) == 7 for text in sent(own))
    with pytest.raises(UsageError, match="cannot read the prompt nowhere"):
        generate(opened, own.model, GenerationConfig(prompt="nowhere"))


def test_wrong_prices_leave_the_store_as_it_is(opened: Database, server: Server) -> None:
    for prices in ({"price_in": ("other=1",), "price_out": 1.0}, {"price_in": ("small=1",)}):
        with pytest.raises(UsageError, match="price_in"):
            generate(opened, server.model, GenerationConfig(**prices))  # type: ignore[arg-type]
    assert opened.rows("SELECT count(*) FROM generators") == [(0,)]


def test_wrong_use(tmp_path: Path, server: Server) -> None:
    with (
        make_store(tmp_path / "s.duckdb", {}, {}, []) as store,
        pytest.raises(UsageError, match="holds no documents; ingest first"),
    ):
        generate(store, server.model, GenerationConfig())
    with pytest.raises(UsageError, match="no effect with rank=none"):
        GenerationConfig(rank=None, search=MiningConfig(stemmer="none"))
    with pytest.raises(UsageError, match="must leave queries to train on"):
        GenerationConfig(dev=0.5, test=0.5)
    with make_store(tmp_path / "t.duckdb", CORPUS, {}, []) as store:
        with pytest.raises(ModelError, match="does not exist"):
            generate(store, f"{server.url}#other", GenerationConfig())
        assert store.rows("SELECT count(*) FROM generated_answers") == [(0,)]


def test_a_real_language_model_may_say_anything(opened: Database, tmp_path: Path) -> None:
    own = Server(KIND, "--lm", str(tiny_language_model(tmp_path / "tiny")))
    try:
        report = generate(opened, own.model, GenerationConfig(documents=4))
        assert (report.requests, report.answered + report.unknown) == (4, 4)
        assert len(stored(opened)) == report.kept
        assert opened.rows("SELECT count(*) FROM generated_answers") == [(4,)]
    finally:
        own.kill()


def test_the_command(opened: Database, server: Server) -> None:
    opened.close()
    words = ["generate", str(opened.path), "--endpoint", server.url, "--model", server.name]
    dry = CliRunner().invoke(group, [*words, "--dry-run", "--documents", "3"])
    assert dry.output.splitlines()[0] == "3 documents to make queries from"
    result = CliRunner().invoke(group, [*words, "--documents", "3", "--set", "stemmer=none"])
    assert result.exception is None, result.output
    table = result.stdout.splitlines()
    assert table[0] == "small: 9 queries from 3 of 3 documents; 0 without an answer that can be read"
    assert table[1] == "  kept            9  (train 9)"
    again = CliRunner().invoke(group, [*words, "--documents", "2", "--json"])
    found = json.loads(again.stdout)
    assert (found["kept"], found["replaced"], found["requests"]) == (6, 9, 0)
    small = CliRunner().invoke(group, [*words, "--documents", "9", "--budget", "1 tokens"])
    assert small.stdout.splitlines()[-1] == "  the budget is less than one request may take: raise it"


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["queries", "x"]), inner),
    max_leaves=6,
)


@given(values, st.sampled_from(["{}", "```json\n{}\n```", "text {}", "<think>a</think>{}"]))
def test_any_answer_is_read_as_texts_or_not_at_all(value: Any, form: str) -> None:
    text = form.replace("{}", json.dumps(value))
    found = queries_in(ChatAnswer(text, "", 0, 0), 2)
    if found is not None:
        assert len(found) <= 2
        assert all(text_key(one) and one == " ".join(one.split()) for one in found)
    if isinstance(value, dict) and isinstance(value.get("queries"), list) and not form.startswith("text"):
        sound = all(isinstance(one, str) for one in value["queries"])
        assert sound or found is None
