"""Python code as a source: docstrings ask, functions answer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import InputError
from miner.sources import SourceConfig, ingest, open_source
from miner.sources.python_docs import first_paragraph, without_docstring
from tests.sources_support import collect, dump, rows, write

CODE = '''"""A module."""
import abc


def plain(x):
    """Add one
    to a number.

    More about it.
    """
    # a comment stays
    return x + 1


def undocumented():
    return 1


class Thing:
    """A class is no function."""

    async def method(self):
        """Add one to a number."""
        if self:
            def inner():
                r"""Ünïcode; inner."""
                return """not
indented"""
            return inner
        return 2

    @property
    def value(self):
        "Get the value."; return 3

    @value.setter
    def value(self, new):
        """Set the value."""
        self.new = new

    def stub(self):
        """Only a stub."""
        raise NotImplementedError("later")

    def other_stub(self):
        """Another stub."""
        ...

    def empty(self):
        """Nothing follows."""
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write(tmp_path / "pack/__init__.py", "")
    write(tmp_path / "pack/code.py", CODE)
    write(
        tmp_path / "pack/sub/more.py", 'def plain(x):\r\n\t"""Add one to a number."""\r\n\treturn 1 + x\r\n'
    )
    write(tmp_path / "pack/tests/test_code.py", 'def test():\n    """A test."""\n    return 1\n')
    return tmp_path / "pack"


def test_functions_become_documents(package: Path) -> None:
    found = collect(f"python:{package}")
    assert {d["doc_id"]: d["text"] for d in found["documents"]} == {
        "pack.code.plain": "def plain(x):\n    # a comment stays\n    return x + 1",
        "pack.code.Thing.method": (
            "async def method(self):\n    if self:\n        def inner():\n"
            '            r"""Ünïcode; inner."""\n            return """not\nindented"""\n'
            "        return inner\n    return 2"
        ),
        "pack.code.Thing.method.inner": 'def inner():\n    return """not\nindented"""',
        "pack.code.Thing.value": "def value(self):\n    return 3",
        "pack.code.Thing.value#2": "def value(self, new):\n    self.new = new",
        "pack.sub.more.plain": "def plain(x):\n\treturn 1 + x",
    }
    assert (found["documents"][0]["origin"], found["documents"][0]["line"]) == (f"{package}/code.py", 5)


def test_functions_of_one_paragraph_are_all_positives(tmp_path: Path, package: Path) -> None:
    store = tmp_path / "s.duckdb"
    ingest(store, [f"python:{package}"])
    assert rows(
        store,
        """SELECT doc_id FROM judgments JOIN queries USING (query_id)
        WHERE text = 'Add one to a number.' AND relevance = 1 AND split = 'train' ORDER BY doc_id""",
    ) == [("pack.code.Thing.method",), ("pack.code.plain",), ("pack.sub.more.plain",)]
    assert rows(store, "SELECT count(*) FROM rejected") == [(0,)]


def test_the_same_code_gives_the_same_store(tmp_path: Path, package: Path) -> None:
    for name in ("x", "y"):
        ingest(tmp_path / f"{name}.duckdb", [f"python:{package}"])
    assert dump(tmp_path / "x.duckdb") == dump(tmp_path / "y.duckdb")


def test_installed_package_and_module() -> None:
    ids = {d["doc_id"] for d in collect("python:json")["documents"]}
    assert {"json.decoder.JSONDecoder.decode", "json.loads"} <= ids
    assert all(d["origin"].startswith("python:json/") for d in collect("python:json")["documents"])
    assert "textwrap.dedent" in {d["doc_id"] for d in collect("python:textwrap")["documents"]}
    assert {d["doc_id"].split(".")[:2][1] for d in collect("python:email.mime")["documents"]} == {"mime"}


def test_format_python_names_a_folder_without_prefix(package: Path) -> None:
    assert len(collect(package, format="python")["documents"]) == 6


@pytest.mark.slow
def test_standard_library_leaves_tests_out() -> None:
    found = collect("python:")
    assert len(found["documents"]) > 4000
    assert not [d for d in found["documents"] if "test" in d["origin"].split("/")[:-1]]
    assert len({d["doc_id"] for d in found["documents"]}) == len(found["documents"])


@pytest.mark.parametrize("code", [b"def f(:\n", b"\xff\xfe\xff", b"x = '\0'", b"# coding: nonsense\n"])
def test_file_that_does_not_parse_is_listed(tmp_path: Path, package: Path, code: bytes) -> None:
    write(package / "bad.py", code)
    store = tmp_path / "s.duckdb"
    report = ingest(store, [f"python:{package}"], SourceConfig(max_bad=0.5))
    ((origin, reason, detail),) = rows(store, "SELECT origin, reason, detail FROM rejected")
    assert (origin, reason) == (f"{package}/bad.py", "not_python")
    assert detail.startswith("does not parse: ")
    assert report.added["documents"] == 6


@pytest.mark.parametrize("name", ["nosuchpackage", "./nowhere", "sys", "json.nowhere"])
def test_no_such_package(name: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(f"python:{name}", SourceConfig())
    assert str(caught.value) == (
        f"python:{name}: no installed package '{name}' with Python code, and no such folder; "
        "name a package (python:json), a folder (python:./src), or python: for the standard library"
    )


def test_folder_without_python(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Python files in"):
        open_source(f"python:{tmp_path}", SourceConfig())


def test_importing_is_never_needed(tmp_path: Path) -> None:
    write(tmp_path / "m.py", 'raise SystemExit\ndef f():\n    """Do it."""\n    return 1\n')
    assert [d["doc_id"] for d in collect(f"python:{tmp_path}")["documents"]] == ["m.f"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30), st.booleans())
def test_what_is_left_is_the_same_function(text: str, same_line: bool) -> None:
    """The source without the docstring parses to the function's other statements."""
    docstring = repr(text + "x")
    code = (
        f"def f(): {docstring}; return 1"
        if same_line
        else f"if 1:\n  def f():\n    {docstring}\n    return 1"
    )
    function = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef))
    rest = ast.parse(without_docstring(function, code.split("\n"))).body[0]
    assert isinstance(rest, ast.FunctionDef)
    assert [ast.unparse(statement) for statement in rest.body] == ["return 1"]
    assert first_paragraph(function) == " ".join((text + "x").split())
