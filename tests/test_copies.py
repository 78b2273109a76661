"""Copies of documents: one document in evaluation, and no negative of a query that one of them answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miner.auditing.replay import Replay
from miner.curation.contamination import ContaminationConfig, find_contamination
from miner.curation.dedup import DedupConfig, dedup
from miner.evaluation.reranking import reranking_task
from miner.evaluation.retrieval import retrieval_task, sampled_task
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.schema import FREE
from miner.store.runs import find_run
from miner.store.triplets import known_pair_keys
from miner.text import document_keys, join_title, normalise, text_key, words
from tests.evaluation_support import add_judgments, angles, judged_store, letters
from tests.stores import make_store

RESET = "To reset the router, hold the power button for ten seconds"
DOCUMENTS = {
    "m": RESET,
    "twin": RESET,
    "bare": RESET.upper(),
    "longer": f"First switch the router on. {RESET}. Then wait.",
    "part": "hold the power button for ten",
    "yes": "Yes.",
    "no": "A router needs power",
}
TITLES = {
    "m": "Manual 2023, page 4", "twin": "Manual 2024, page 9", "longer": "Forum", "part": "Router",
    "yes": "Does the router reset?",
}  # fmt: skip


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=20)), max_size=4))
def test_keys_are_those_of_the_joined_text_and_of_the_text_alone(pairs: list[tuple[str, str]]) -> None:
    keys, passages = document_keys([title for title, _ in pairs], [text for _, text in pairs])
    assert keys == [text_key(join_title(*pair)) for pair in pairs]
    assert all(p in (None, text_key(text)) for p, (_, text) in zip(passages, pairs, strict=True))


@pytest.mark.parametrize(
    ("title", "text", "is_passage"),
    [
        ("Manual 2023, page 4", RESET, True),
        ("", RESET, False),
        ("  ", RESET, False),
        ("Router", "", False),
        ("Is it open on Sundays?", "Yes.", False),
        ("Aardvark", "Definition:", False),
        ("How do I reset my router to its factory settings", "see the title, thanks in advance", False),
        ("Router", "hold the power button", True),
        ("How to hold the power button", "hold the power button", False),
        ("one two three four five six seven eight nine", "hold the power button for ten long seconds", True),
        ("one two three four five six seven eight nine", "hold the power button for ten seconds", False),
        ("How do you reset the AX router to its factory settings when it does not react", RESET, True),
        ("二〇二四年版路由器使用说明书第四页关于恢复出厂设置", "请按住背面的按钮十秒", True),
        ("二〇二四年版路由器使用说明书第四页关于恢复出厂设置", "请按住背面的按钮", False),
        ("说明书第四页", "要重置路由器，请按住背面的按钮十秒钟", True),
        ("路由器怎么重置", "见标题", False),
    ],
)
def test_a_passage_is_long_or_the_greater_part_of_its_document(
    title: str, text: str, is_passage: bool
) -> None:
    _, (passage,) = document_keys([title], [text])
    assert (passage is not None) == is_passage


@given(
    st.lists(
        st.sampled_from([" ", " ", "a", "bé", "\u200b", "中", "文字", "ก่", "\u0301", "\U0001f600", "𠀀"]),
        max_size=90,
    )
)
def test_a_passage_has_as_many_words_as_the_title_in_any_script(pieces: list[str]) -> None:
    text = normalise("".join(pieces))
    _, (passage,) = document_keys(["five words are a title"], [text])
    assert (passage is not None) == (len(words(text)) >= 5)


def reasons(
    path: Path, documents: Mapping[str, str], titles: Mapping[str, str], **changes: object
) -> dict[str, str]:
    """Returns what became of the candidates of a query about the router, whose positive is m."""
    with make_store(path, documents, {"q": "reset the router"}, [("q", "m")], titles=titles) as store:
        for doc in changes.get("judged_negative", ()):  # type: ignore[attr-defined]
            add_judgments(store, [("q", doc, 0.0, "train")])
        mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        return dict(store.rows("SELECT doc_id, coalesce(reason::VARCHAR, 'kept') FROM verdicts"))


def test_a_title_does_not_hide_a_copy_of_a_positive(tmp_path: Path) -> None:
    assert reasons(tmp_path / "s.duckdb", DOCUMENTS, TITLES) == {
        "m": "judged_positive",
        "twin": "duplicate_of_positive",
        "bare": "duplicate_of_positive",
        "longer": "overlaps_positive",
        "part": "overlaps_positive",
        "yes": "kept",
        "no": "kept",
    }


def test_a_title_longer_than_the_text_does_not_hide_a_copy(tmp_path: Path) -> None:
    text = "hold the power button for ten seconds until the light blinks"
    title = "How do you reset the {} to its factory settings when it does not react any more at all"
    titles = {"m": title.format("AX router of 2023"), "twin": title.format("BX router of 2024")}
    documents = dict.fromkeys(titles, text)
    assert reasons(tmp_path / "s.duckdb", documents, titles) == {
        "m": "judged_positive", "twin": "duplicate_of_positive",
    }  # fmt: skip


def test_boilerplate_under_many_titles_is_one_negative_at_most(tmp_path: Path) -> None:
    stub = "This article is a stub. You can help by expanding it."
    documents = {"m": RESET, **{f"stub{number}": stub for number in range(3)}}
    titles = {doc: f"The router and its reset button, part {doc[-1]}" for doc in documents if doc != "m"}
    with make_store(
        tmp_path / "s.duckdb", documents, {"q": "reset the router"}, [("q", "m")], titles=titles
    ) as store:
        dedup(store, DedupConfig())
        mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        found = store.rows(
            "SELECT coalesce(reason::VARCHAR, 'kept') FROM verdicts WHERE doc_id != 'm' ORDER BY 1"
        )
    assert found == [("duplicate_of_candidate",), ("duplicate_of_candidate",), ("kept",)]


def test_a_short_text_under_another_title_is_another_document(tmp_path: Path) -> None:
    documents = {"m": "Definition:", "other": "Definition:", "empty": "", "same": "Definition: "}
    titles = {"m": "router reset", "other": "router restart", "empty": "router", "same": "Router  RESET"}
    assert reasons(tmp_path / "s.duckdb", documents, titles) == {
        "m": "judged_positive",
        "other": "kept",
        "empty": "overlaps_positive",
        "same": "duplicate_of_positive",
    }


def test_what_people_judged_not_relevant_stays_a_negative_under_its_own_title(tmp_path: Path) -> None:
    found = reasons(tmp_path / "s.duckdb", DOCUMENTS, TITLES, judged_negative=("twin", "bare"))
    assert found["twin"] != "duplicate_of_positive"


def test_hiding_a_positive_opens_its_copies_under_other_titles(tmp_path: Path) -> None:
    judged = [("q", "m"), ("q", "no")]
    with make_store(
        tmp_path / "s.duckdb", DOCUMENTS, {"q": "reset the router"}, judged, titles=TITLES
    ) as store:
        mine(store, MiningConfig(rules=Rules(relative_margin=None), depth=4))
        replay = Replay.of(store, find_run(store, "r1"))
        table = replay.hideable.table
        hidden = np.array([doc == "m" for doc in table["doc_id"].to_pylist()])
        evidence = replay.hide(replay.hideable.hide(hidden))
        after = dict(
            zip(
                (ids := replay.documents.ids_of(evidence.candidates).to_pylist()),
                evidence.candidates["exclusion"].to_pylist(),
                strict=True,
            )
        )
        assert after["twin"] == FREE
        (row,) = evidence.row[hidden]
        assert ids[int(row)] in ("m", "twin", "bare")


def test_dedup_and_training_know_copies_under_other_titles(tmp_path: Path) -> None:
    with make_store(
        tmp_path / "s.duckdb", DOCUMENTS, {"q": "a question"}, [("q", "m")], titles=TITLES
    ) as store:
        dedup(store, DedupConfig())
        assert store.rows("SELECT id, how FROM duplicates ORDER BY id") == [
            ("bare", "exact"), ("m", "exact"), ("twin", "exact"),
        ]  # fmt: skip
        known = known_pair_keys(store, ("gold",))["doc_key"].to_pylist()
    assert sorted(known) == sorted(
        text_key(join_title(TITLES.get(doc, ""), DOCUMENTS[doc])) for doc in ("m", "twin", "bare")
    )


@pytest.mark.parametrize("title", ["", "Another manual"])
def test_contamination_sees_through_titles(tmp_path: Path, title: str) -> None:
    with (
        make_store(
            tmp_path / "a.duckdb", {"t": RESET}, {"q": "x"}, [("q", "t")], titles={"t": title}
        ) as train,
        make_store(
            tmp_path / "b.duckdb",
            {"e": RESET},
            {"q": "y"},
            [("q", "e", "test")],
            titles={"e": "Manual 2023, page 4"},
        ) as test,
    ):
        report = find_contamination(train, test, ContaminationConfig())
    assert [(match.role, match.id, match.train_id) for match in report.matches] == [("document", "e", "t")]
    assert report.evaluation == {"document": 1, "query": 1}
    assert report.training == 2


few_words = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=4).map(" x".join)


@st.composite
def collections(draw: st.DrawFn) -> tuple[dict[str, str], list[tuple[str, str, float, str]]]:
    texts = draw(st.lists(few_words, min_size=3, max_size=8, unique=True))
    documents = {f"d{number}": text for number, text in enumerate(texts)}
    for number in draw(st.lists(st.integers(0, len(texts) - 1), max_size=5)):
        documents[f"c{len(documents)}"] = draw(st.sampled_from([texts[number], texts[number].upper()]))
    pairs = st.tuples(
        st.sampled_from(["q0", "q1", "q2"]), st.sampled_from(sorted(documents)),
        st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from(["test", "test", "dev"]),
    )  # fmt: skip
    judged = draw(st.lists(pairs, max_size=8, unique_by=lambda pair: (pair[0], pair[1], pair[3])))
    first = [pair for pair in judged if pair[:2] != ("q0", "d0") or pair[3] != "test"]
    return documents, [*first, ("q0", "d0", 1.0, "test")]


QUERIES = {"q0": "xa xb", "q1": "xc a", "q2": "xe xf xg"}


def figures(
    documents: Mapping[str, str], judged: list[tuple[str, str, float, str]]
) -> list[dict[str, list[float]]]:
    """Returns the values per query of retrieval, of retrieval over a sample, and of reranking."""
    with (
        TemporaryDirectory() as folder,
        judged_store(Path(folder) / "s", documents, QUERIES, judged) as store,
    ):
        found = [
            retrieval_task(store, "test").measure(_folded),
            sampled_task(store, "test", None, 3, 7).measure(_folded),
        ]
        task = reranking_task(store, "test", depth=3)
        texts = [task.retrieval.documents[doc].casefold() for doc in task.candidates.doc]
        found.append(task.measure(np.array([float(text.count("x")) for text in texts])))
    return [{name: column.tolist() for name, column in one.values.items()} for one in found]


def _folded(texts: list[str], role: str) -> np.ndarray:  # type: ignore[type-arg]
    return letters()([text.casefold() for text in texts], role)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(collections(), st.randoms(use_true_random=False), st.booleans())
def test_neither_ids_nor_further_copies_change_a_measure(
    collection: tuple[dict[str, str], list[tuple[str, str, float, str]]], random: object, upper: bool
) -> None:
    documents, judged = collection
    before = figures(documents, judged)
    ids = sorted(documents)
    shuffled = ids.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    position = dict(zip(ids, shuffled, strict=True))
    renamed = {position[doc]: text for doc, text in documents.items()}
    assert figures(renamed, [(q, position[doc], *rest) for q, doc, *rest in judged]) == before  # type: ignore[misc]
    more = {
        f"{number}{doc}": text.upper() if upper else text
        for number, (doc, text) in enumerate(documents.items())
    }
    assert figures({**documents, **more}, judged) == before


def test_a_copy_of_a_relevant_document_is_relevant_once(tmp_path: Path) -> None:
    documents = {"a": "reset", "b": "RESET ", "c": "Reset", "d": "return", "e": "warranty"}
    places = {"question": 0.0, "reset": 10.0, "RESET ": 10.0, "Reset": 10.0, "return": 5.0, "warranty": 20.0}
    judged = [("q", "b", 1.0, "test"), ("q", "c", 3.0, "test"), ("q", "e", 1.0, "test")]
    with judged_store(tmp_path / "s", documents, {"q": "question"}, judged) as store:
        found = retrieval_task(store, "test").measure(angles(places))
    gain = 3 / np.log2(3) + 1 / np.log2(4)
    assert found.means["nDCG@10"] == pytest.approx(gain / (3 + 1 / np.log2(3)))
    assert found.means["R@10"] == 1.0
    assert found.means["MAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.left_out == {"copies": 2}
    assert found.documents == 3


def test_a_copy_of_what_another_split_finds_is_not_shown(tmp_path: Path) -> None:
    documents = {"a": "reset", "b": "reset", "c": "return"}
    judged = [("q", "a", 1.0, "train"), ("q", "c", 1.0, "test")]
    with judged_store(tmp_path / "s", documents, {"q": "question"}, judged) as store:
        found = retrieval_task(store, "test").measure(angles({"question": 0.0, "reset": 1.0, "return": 2.0}))
    assert found.means["MRR@10"] == 1.0
    assert found.left_out == {"copies": 1, "other_split": 1}
