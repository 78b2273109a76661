"""Answers of a language model are read strictly: what is not exactly a grade is unknown, never 'no'."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.asking.cost import Budget, Prices, TokenUse
from miner.errors import UsageError
from miner.judging.config import COMPARED, GRADED, JudgeConfig
from miner.judging.questions import QuestionTexts, grades, in_random_order, question
from miner.models.chat import ChatAnswer


def read(text: str, form: str = GRADED, documents: int = 1) -> list[int | None]:
    return grades(form, ChatAnswer(text, "", 0, 0), documents)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ('{"grade": 2}', 2),
        (' {"grade":0}\n', 0),
        ('```json\n{"grade": 3}\n```', 3),
        ('<think>It may be 3 or {"grade": 3}.</think>\n{"grade": 1}', 1),
        ('{"grade": 2, "why": "it says so"}', 2),
        ('{"grade": 4}', None),
        ('{"grade": -1}', None),
        ('{"grade": true}', None),
        ('{"grade": 2.0}', None),
        ('{"grade": "2"}', None),
        ('{"grade": null}', None),
        ('{"grade": 3, "grade": 0}', None),
        ('{"grade": 2', None),
        ('{"grade": 2} {"grade": 0}', None),
        ('The grade is {"grade": 2}.', None),
        ('[{"grade": 2}]', None),
        ("2", None),
        ("Nicht relevant.", None),
        ("I cannot help with that.", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_only_a_grade_is_a_grade(text: str, grade: int | None) -> None:
    assert read(text) == [grade]


VERDICTS = '{"verdicts": [%s]}'


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ('{"number": 2, "verdict": "better"}, {"number": 1, "verdict": "irrelevant"}', [0, 3]),
        ('{"number": 1, "verdict": " As Good "}, {"number": 2, "verdict": "worse"}', [2, 1]),
        ('{"number": 1, "verdict": "worse"}', [1, None]),
        ('{"number": 1, "verdict": "worse"}, {"number": 1, "verdict": "better"}', [None, None]),
        ('{"number": 1, "verdict": "worse"}, {"number": 3, "verdict": "better"}', [None, None]),
        ('{"number": 0, "verdict": "worse"}, {"number": 1, "verdict": "better"}', [None, None]),
        ('{"number": "1", "verdict": "worse"}, {"number": 2, "verdict": "better"}', [None, None]),
        ('{"number": 1, "verdict": "relevant"}, {"number": 2, "verdict": "better"}', [None, 3]),
        ('{"number": 1}, 7', [None, None]),
    ],
)
def test_each_document_needs_exactly_one_verdict(rows: str, expected: list[int | None]) -> None:
    assert read(VERDICTS % rows, COMPARED, 2) == expected


KEYS = st.sampled_from(["grade", "verdicts", "number", "verdict"])
VALUES = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)).map(json.dumps)


@given(st.text() | JSON, st.sampled_from([GRADED, COMPARED]), st.integers(1, 4))
def test_any_answer_gives_a_grade_or_none_for_each_document(text: str, form: str, documents: int) -> None:
    number = documents if form == COMPARED else 1
    found = read(text, form, number)
    assert len(found) == number
    assert all(one is None or one in (0, 1, 2, 3) for one in found)


@given(st.text(), st.text(), st.integers(100, 200))
def test_texts_stay_inside_the_data(query: str, document: str, characters: int) -> None:
    config = JudgeConfig(characters=characters)
    sent = question(config, config.instructions, QuestionTexts(query, [document]))
    assert json.loads(sent.user) == {"query": query, "document": document[:characters]}
    assert sent.system == config.instructions  # no text of the data gets among the instructions


def test_the_relevance_of_the_domain_is_in_the_instructions() -> None:
    config = JudgeConfig(relevance="The case decides the legal question.", form=COMPARED)
    assert "The case decides the legal question." in config.instructions


@given(st.lists(st.text(min_size=1), unique=True), st.text(), st.integers(0, 2**32 - 1))
def test_the_order_depends_on_the_seed_and_the_query_alone(docs: list[str], query: str, seed: int) -> None:
    assert in_random_order(docs, query, seed) == in_random_order(docs[::-1], query, seed)
    assert sorted(in_random_order(docs, query, seed)) == sorted(docs)


@pytest.mark.parametrize(
    ("text", "unit", "most"),
    [
        ("500 requests", "requests", 500),
        ("1 request", "requests", 1),
        ("2M tokens", "tokens", 2_000_000),
        ("300ktokens", "tokens", 300_000),
        ("5.00", "money", 5),
    ],
)
def test_a_budget_is_requests_tokens_or_money(text: str, unit: str, most: float) -> None:
    found = Budget.parse(text, has_prices=True)
    assert (found.unit, found.most) == (unit, most)


@pytest.mark.parametrize("text", ["", "many", "0 requests", "-1", "5 euros", "nan", "inf tokens", "1e99"])
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        Budget.parse(text, has_prices=True)


def test_a_budget_in_money_needs_prices() -> None:
    with pytest.raises(UsageError, match="prices"):
        JudgeConfig(budget="5.00")
    used = TokenUse(money=0.0)
    used.add(2_000_000, 100_000, Prices(1.0, 10.0))
    assert used.money == pytest.approx(3.0)
    assert not used.exceeds(Budget.parse("3", has_prices=True))
    assert used.exceeds(Budget.parse("2.99", has_prices=True))


def test_each_model_of_a_cascade_has_its_own_price() -> None:
    config = JudgeConfig(price_in=("small=0.1", "a=b=2"), price_out=4)
    assert config.prices(["small", "a=b"]) == [Prices(0.1, 4), Prices(2, 4)]
    assert JudgeConfig().prices(["small"]) == [None]
    with pytest.raises(UsageError, match="no price of large"):
        config.prices(["small", "a=b", "large"])
    with pytest.raises(UsageError, match="no model 'small' is asked"):
        config.prices(["smal", "a=b"])
    with pytest.raises(UsageError, match="price_in"):
        JudgeConfig(price_in=("small=free",))
