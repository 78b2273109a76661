"""What messages and tables show of the user's data: cut, and without anything that drives a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miner.cli.main import main
from miner.errors import InputError, listed, near, nearest, printable, shown, snippet
from miner.sources import SourceConfig, ingest
from tests.sources_support import jsonl, write

HOSTILE = "\x1b]0;title\x07\u202eevil\u2066\x9b31m\u200f\n"
FORBIDDEN = [chr(code) for code in (*range(32), *range(127, 160), 0x202E, 0x2066, 0x200F, 0xFEFF, 0xE0041)]


@given(st.text(st.characters(), max_size=200))
@example(HOSTILE)
def test_what_is_shown_is_short_and_prints(text: str) -> None:
    found = shown(text)
    assert not any(sign in found for sign in FORBIDDEN)
    found.encode("utf-8")
    assert len(snippet(text, 20).encode("unicode_escape")) <= 20 * 10
    assert printable(text, keep="\n").count("\n") == text.count("\n")


def test_ids_are_cut_at_80_characters() -> None:
    assert shown("x" * 80) == "x" * 80
    assert shown("x" * 81) == "x" * 79 + "…"
    assert shown("日本語 ‌ é") == "日本語 ‌ é"
    assert listed(["a\x1b", "b"]) == "a\\x1b, b"
    assert near("ab\x1bc", ["ab\x1bd"]) == " (did you mean 'ab\\x1bd'?)"


def test_an_error_never_holds_a_control_character() -> None:
    error = InputError(f"no '{HOSTILE}'", f"see {HOSTILE}")
    for text in (str(error), error.message, error.hint, *map(str, error.args)):
        assert not any(sign in text for sign in FORBIDDEN if sign != "\n")


@pytest.mark.parametrize(
    "arguments", [["sql", "{store}", "FROM documents"], ["explain", "{store}", "q{bad}"]]
)
def test_commands_show_hostile_ids_as_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    store = tmp_path / "s.duckdb"
    bad = HOSTILE.rstrip("\n")
    row = {"id": f"d{bad}", "query": "a", "positive": f"text {bad} end"}
    source = write(tmp_path / "t.jsonl", jsonl(row))
    ingest(store, [str(source)], SourceConfig(document_id_column="id"))
    with pytest.raises(SystemExit):
        main([argument.format(store=store, bad=bad) for argument in arguments])
    captured = capsys.readouterr()
    written = captured.out + captured.err
    assert not any(sign in written for sign in FORBIDDEN if sign != "\n")
    assert "\\x1b]0;title\\x07\\u202eevil\\u2066" in written


def test_notes_and_the_summary_of_an_ingest_show_no_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if sys.platform == "win32":
        pytest.skip("no such file names")
    write(tmp_path / "set/train.tsv", "query\tpositive\tx\x1b[31m\na\tb\t1\na\t\t1\n")
    write(tmp_path / "set/no\x1b[31mte", "x")
    with pytest.raises(SystemExit):
        main(["ingest", str(tmp_path / "s.duckdb"), str(tmp_path / "set"), "--set", "max_bad=1"])
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "not read: no\\x1b[31mte (not a table)" in said
    assert "not read: columns x\\x1b[31m" in said


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("R1", ["r1", "r2"], "r1"),
        ("STRICT", ["r1", "strict"], "strict"),
        ("str", ["r1", "strict"], "strict"),
        ("stirct", ["r1", "strict"], "strict"),
        ("Stirct", ["r1", "strict"], "strict"),
        ("", ["r1"], None),
        ("other", ["r1"], None),
        ("a", ["A", "a1"], "A"),
    ],
)
def test_a_wrong_name_gets_the_nearest_one(name: str, known: list[str], meant: str | None) -> None:
    assert nearest(name, known) == meant
    assert near(name, known) == ("" if meant is None else f" (did you mean '{meant}'?)")
