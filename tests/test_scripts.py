"""Words in every script: Chinese, Japanese, Thai and their like behave as English does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miner.collection.overlap import Words
from miner.curation.contamination import ContaminationConfig, find_contamination
from miner.curation.dedup import DedupConfig, dedup
from miner.curation.near import WordSets, jaccard
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.retrieval.config import Bm25Config
from miner.retrieval.terms import Terms
from miner.text import normalise, words
from tests.stores import make_store

ENGLISH = {
    "things": ["router", "printer", "kettle", "drone", "camera", "tablet", "heater", "scooter"],
    "text": "To reset the {t}, hold the button on its back for ten seconds until the light blinks.",
    "more": " If the problem remains, call the service centre.",
    "other": "The {t} has a warranty of two years, keep the receipt.",
    "query": "how do I reset my {t}",
}
OTHERS = {
    "Chinese": {
        "things": ["路由器", "打印机", "电水壶", "无人机", "照相机", "平板电脑", "取暖器", "滑板车"],
        "text": "要重置{t}，请按住背面的按钮十秒钟，直到指示灯开始闪烁。",
        "more": "如果问题仍然存在，请联系售后服务中心。",
        "other": "{t}附带两年保修服务，请妥善保管购买时的收据。",
        "query": "怎么重置我的{t}",
    },
    "Japanese": {
        "things": [
            "ルーター",
            "プリンター",
            "電気ケトル",
            "ドローン",
            "カメラ",
            "タブレット",
            "ヒーター",
            "スクーター",
        ],
        "text": "{t}をリセットするには、ランプが点滅するまで背面のボタンを十秒間押し続けてください。",
        "more": "問題が解決しない場合は、サービスセンターにご連絡ください。",
        "other": "{t}には二年間の保証が付いていますので、領収書を保管してください。",
        "query": "{t}をリセットする方法",
    },
    "Thai": {
        "things": [
            "เราเตอร์",
            "เครื่องพิมพ์",
            "กาต้มน้ำ",
            "โดรน",
            "กล้องถ่ายรูป",
            "แท็บเล็ต",
            "เครื่องทำความร้อน",
            "สกู๊ตเตอร์",
        ],
        "text": "หากต้องการรีเซ็ต{t}ให้กดปุ่มด้านหลังค้างไว้สิบวินาทีจนกว่าไฟจะกะพริบ",
        "more": " หากยังมีปัญหาอยู่โปรดติดต่อศูนย์บริการ",
        "other": "{t}มีการรับประกันสองปีโปรดเก็บใบเสร็จไว้",
        "query": "วิธีรีเซ็ต{t}ของฉัน",
    },
}
LANGUAGES = {"English": ENGLISH, **OTHERS}
PLAIN = Bm25Config(stemmer="none", stopwords="none")


def tokens(text: str) -> list[str]:
    """Returns BM25's words of a text, with nothing stemmed or left out."""
    return Terms(PLAIN).of_texts([text])[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("重置路由器，请按", ["重置", "置路", "路由", "由器", "请按"]),
        ("iPhone手机 用USB-C 2023年", ["iphone", "手机", "用", "usb", "2023", "年"]),
        ("茶 の 茶", ["茶", "の", "茶"]),
        ("ｺｰﾋｰ ＡＢＣ㎏ 人々", ["コー", "ーヒ", "ヒー", "abckg", "人々"]),
        ("𠮷野家 〇", ["𠮷野", "野家", "〇"]),
        ("葛\U000e0100城", ["葛城"]),
        ("น้ำแข็ง", ["น้ํา", "าแ", "แข็", "ข็ง"]),
        ("ភាសា\u200bខ្មែរ", ["ភាសា", "សាខ្", "ខ្មែ", "មែរ"]),
        ("ພາສາລາວ", ["ພາ", "າສ", "ສາ", "າລ", "ລາ", "າວ"]),
        ("မြန်မာ", ["မြန်", "န်မာ"]),
        ("བོད་སྐད་", ["བོད", "སྐད"]),
        ("हिन्दी का क्\u200dषेत्र", ["हिन्दी", "का", "क्षेत्र"]),
        ("বাংলা தமிழ் മലയാളം", ["বাংলা", "தமிழ்", "മലയാളം"]),
        ("العَرَبِيَّة שָׁלוֹם", ["العَرَبِيَّة", "שָׁלוֹם"]),
        ("café cafe\u0301 İstanbul", ["café", "café", "istanbul"]),
        ("한국어 텍스트는 길다", ["한국어", "텍스트는", "길다"]),
        ("❤️ it’s fine", ["it", "fine"]),
    ],
)
def test_a_word_is_a_word_in_every_script(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@given(st.lists(st.text(st.characters(max_codepoint=0x24F), max_size=20), max_size=4))
@example(["Ein Müller’s Straße", "x² ½ naïve"])
def test_other_texts_have_the_tokens_that_bm25s_gives_them(texts: list[str]) -> None:
    spelled = [text.replace("\u0130", "I") for text in texts]
    plain = bm25s.tokenize(spelled, stopwords=None, return_ids=False, show_progress=False)
    for beside in ([], ["中文", "हिन्दी"]):
        assert Terms(PLAIN).of_texts([*spelled, *beside])[: len(texts)] == plain


@given(st.text(st.characters(max_codepoint=0x2FF), max_size=30))
def test_words_are_what_white_space_separates(text: str) -> None:
    assert words(text) == words(text, 1) == text.split()


@given(st.text(st.sampled_from("重置路由器请按カな"), min_size=1, max_size=12), st.integers(1, 4))
def test_a_run_of_characters_becomes_every_ngram_or_itself(text: str, size: int) -> None:
    grams = [text[i : i + size] for i in range(len(text) - size + 1)]
    assert words(text, size) == (grams or [text])
    assert words(" ".join(text), size) == words(text, size)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("重置路由器", "如何重置路由器的密码", True),
        ("重置路由器", "如何 重置\n路由器 的密码", True),
        ("重置路由器", "重置打印机", False),
        ("使用iPhone手机", "请使用iPhone手机拍照", True),
        ("使用iPhone手机", "请使用iPhones手机拍照", False),
        ("กดปุ่มรีเซ็ต", "โปรดกดปุ่มรีเซ็ตอีกครั้ง", True),
        ("हिन्दी पाठ", "यह हिन्दी पाठ है", True),
        ("हिन्दी पा", "यह हिन्दी पाठ है", False),
    ],
)
def test_containment_is_by_characters_where_words_have_no_boundaries(
    left: str, right: str, expected: bool
) -> None:
    known = Words(pa.array([left, right]).take, np.zeros(2, dtype=np.int32))
    one, other = np.array([0], dtype=np.int32), np.array([1], dtype=np.int32)
    assert known.overlap(one, other).tolist() == known.overlap(other, one).tolist() == [expected]


def test_marks_count_in_near_copies() -> None:
    known = WordSets(["यह दिन अच्छा", "यह दीन अच्छा"])
    assert jaccard(known, np.array([0]), known, np.array([1])).tolist() == [0.5]
    code = WordSets(["如果(x)返回 y"], punctuation=True)
    assert code.sizes.tolist() == [len({"如果", "(", "x", ")", "返回", "y"})]


def collection(language: dict[str, object]) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]:
    """Returns documents, queries and judgments: texts, longer texts that contain them, and other texts."""
    documents, queries = {}, {}
    for number, thing in enumerate(language["things"]):  # type: ignore[arg-type,var-annotated]
        text = str(language["text"]).format(t=thing)
        documents |= {f"p{number}": text, f"longer{number}": text + str(language["more"])}
        documents[f"other{number}"] = str(language["other"]).format(t=thing)
        queries[f"q{number}"] = str(language["query"]).format(t=thing)
    return documents, queries, [(f"q{number}", f"p{number}") for number in range(len(queries))]


def test_the_same_collection_has_the_same_exclusions_in_every_language(tmp_path: Path) -> None:
    found = {}
    for name, language in LANGUAGES.items():
        with make_store(tmp_path / f"{name}.duckdb", *collection(language)) as store:
            mine(store, MiningConfig(rules=Rules(relative_margin=None)))
            excluded = store.rows(
                "SELECT query_id, doc_id, reason FROM verdicts WHERE reason IS NOT NULL ORDER BY ALL"
            )
            negatives = store.rows("SELECT query_id, count(*) FROM triplets GROUP BY ALL ORDER BY ALL")
            found[name] = excluded, negatives
    assert all(found[name] == found["English"] for name in OTHERS)
    excluded, negatives = found["English"]
    assert {(q, d) for q, d, reason in excluded if reason == "overlaps_positive"} == {
        (f"q{number}", f"longer{number}") for number in range(8)
    }
    assert negatives == [(f"q{number}", 5) for number in range(8)]


@pytest.mark.parametrize("name", LANGUAGES)
def test_contamination_and_dedup_find_every_kind_of_copy(name: str, tmp_path: Path) -> None:
    language = LANGUAGES[name]
    documents, queries, _ = collection(language)
    whole = f"{documents['p3']} {documents['other3']}"
    training = {
        "exact": documents["p0"],
        "long": f"1. {documents['p1']}{language['more']} 2.",
        "wrapped": documents["p2"].replace(" ", "\n"),
        "whole": whole,
    }
    evaluation = {f"e{number}": documents[f"p{number}"] for number in range(3)}
    evaluation |= {"e3": whole[:-3], "e6": "violin"}
    judged = [*(("t0", f"e{n}", "test") for n in (0, 1, 2, 3)), ("t7", "e6", "test")]
    with (
        make_store(tmp_path / "train.duckdb", training, {"t": queries["q0"]}, [("t", "exact")]) as train,
        make_store(
            tmp_path / "test.duckdb", evaluation, {"t0": queries["q0"], "t7": "violin"}, judged
        ) as test,
    ):
        found = {
            match.id: match.how for match in find_contamination(train, test, ContaminationConfig()).matches
        }
    near = found.pop("e3"), found.pop("e2")
    assert near[0] in ("near", "contained")
    assert near[1] in ("exact", "normalised")
    assert found == {"e0": "exact", "e1": "contained", "t0": "exact"}
    copies = {"a": documents["p0"], "b": documents["p0"] + "。", "c": documents["other0"]}
    with make_store(tmp_path / "copies.duckdb", copies, queries, []) as store:
        dedup(store, DedupConfig())
        assert store.rows("SELECT id FROM duplicates ORDER BY id") == [("a",), ("b",)]


def test_a_wrapped_text_is_found_as_contained(tmp_path: Path) -> None:
    text = str(OTHERS["Chinese"]["text"]).format(t="路由器") + str(OTHERS["Chinese"]["more"])
    wrapped = "\n".join(text[start:stop] for start, stop in pairwise([0, 11, 22, 33, len(text)]))
    with (
        make_store(
            tmp_path / "a.duckdb", {"d": f"说明书第一页 {wrapped} 谢谢"}, {"q": "?"}, [("q", "d")]
        ) as train,
        make_store(tmp_path / "b.duckdb", {"e": text}, {"q": "!"}, [("q", "e", "test")]) as test,
    ):
        (match,) = find_contamination(train, test, ContaminationConfig()).matches
    assert (match.id, match.how, match.similarity) == ("e", "contained", 1.0)
    assert normalise(text) not in normalise(wrapped)
