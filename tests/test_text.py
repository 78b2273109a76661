"""When two texts are the same, and what identifies them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miner.text import clean, content_id, fingerprint, join_title, normalise, text_key, text_keys

any_text = st.text(st.characters(), max_size=30)
"""Surrogates and NUL included."""
composed = st.text(st.characters(exclude_categories=["M", "Cs"]), max_size=30)
"""Without combining marks: folding İ and the like before one more mark can leave marks in another order."""


def unfolded(text: str) -> str:
    """The definition, without the short way for ASCII."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@given(any_text)
def test_clean_leaves_what_utf8_can_hold_and_says_whether_it_took_anything(text: str) -> None:
    cleaned, changed = clean(text)
    cleaned.encode("utf-8")
    assert "\0" not in cleaned
    assert changed == (cleaned != text)
    assert cleaned == "".join(c for c in text if c != "\0" and not 0xD800 <= ord(c) <= 0xDFFF)


@given(st.one_of(any_text, st.text(st.characters(max_codepoint=127), max_size=30)))
def test_normalise_is_its_definition(text: str) -> None:
    assert normalise(text) == unfolded(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Bread  and\tbutter\n", "bread and BUTTER"),
        ("ﬁne", "FINE"),
        ("Straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("Ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("no\u00a0break", "no break"),
        ("ΣΊΣΥΦΟΣ", "Σίσυφος"),
        ("x²", "x2"),
    ],
)
def test_texts_that_count_as_the_same(left: str, right: str) -> None:
    assert normalise(left) == normalise(right)
    assert text_key(left) == text_key(right)


@pytest.mark.parametrize(
    ("left", "right"), [("bread", "breads"), ("a b", "ab"), ("cafe", "café"), ("1.0", "10"), ("it's", "its")]
)
def test_texts_that_differ(left: str, right: str) -> None:
    assert text_key(left) != text_key(right)


@given(composed)
@example("\u01f0")
def test_normalising_again_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(composed)
def test_a_text_and_its_case_folded_form_are_one_text(text: str) -> None:
    assert normalise(text.casefold()) == normalise(text)


@given(any_text)
def test_a_key_is_a_signed_64_bit_number_and_0_only_for_nothing(text: str) -> None:
    key = text_key(text)
    assert -(2**63) <= key < 2**63
    assert (key == 0) == (not normalise(text))


def test_keys_never_change_between_versions() -> None:
    digest = hashlib.blake2b(b"bread and butter", digest_size=8).digest()
    assert text_key("Bread  and BUTTER ") == int.from_bytes(digest, "little", signed=True)
    keys = text_keys(["bread", "", " \n", "Bread"])
    assert keys.dtype == np.int64
    assert keys.tolist() == [text_key("bread"), 0, 0, text_key("bread")]
    assert text_keys([]).shape == (0,)


def test_a_title_goes_before_the_text() -> None:
    assert join_title("Bread", "is baked.") == "Bread is baked."
    assert join_title("", "is baked.") == "is baked."
    assert join_title("Bread", "") == "Bread "


@given(any_text)
def test_content_ids_depend_on_the_text_alone(text: str) -> None:
    found = content_id("d", text)
    assert found == content_id("d", text)
    assert found[0] == "d"
    assert len(found) == 17
    assert set(found[1:]) <= set("0123456789abcdef")
    assert content_id("d", text + "x") != found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)
    assert fingerprint({**value, "one more": 1}) != fingerprint(value)


def test_fingerprints_never_change_between_versions() -> None:
    assert fingerprint({"b": [1, "ü"], "a": None}) == (
        hashlib.sha256(b'{"a":null,"b":[1,"\\u00fc"]}').hexdigest()
    )
    assert fingerprint(["ab"]) != fingerprint(["a", "b"])
    assert fingerprint("1") != fingerprint(1)


def test_keys_are_the_same_in_every_process() -> None:
    code = "from miner.text import *; print(text_key('Bread'), content_id('q', 'x'), fingerprint({'a': 1}))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{text_key('Bread')} {content_id('q', 'x')} {fingerprint({'a': 1})}\n"}
