"""Python code: for every function with a docstring, the docstring is the query, the code the document."""

from __future__ import annotations

import ast
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from miner.errors import InputError
from miner.sources.config import SourceConfig
from miner.sources.part import Part, Rows, Source
from miner.text import content_id

PREFIX = "python:"
FILES_PER_PART = 50
_SKIPPED = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class _Package:
    """Python files, the beginning of their module names, and the beginning of their origin in messages."""

    files: list[Path]
    base: Path
    prefix: str
    origin: str

    def module(self, file: Path) -> str:
        """Returns the dotted name of the file's module."""
        parts = list(file.relative_to(self.base).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        return ".".join(filter(None, (self.prefix, *parts)))


def open_python(source: str, config: SourceConfig) -> Source:
    """Returns `python:` (the standard library), `python:PACKAGE` or `python:FOLDER` as a source.

    A query is the first paragraph of a docstring; its document is the function without the docstring.
    Raises InputError if there is no such package, or no Python file in it.
    """
    package = _find(source)
    if not package.files:
        raise InputError(f"{source}: no Python files in {package.base}", "name a package or its folder")
    return Source(
        source, len(package.files), "files", _parts(package, config.split or "train"), read_as="Python"
    )


def _find(source: str) -> _Package:
    name = source.removeprefix(PREFIX)
    if not name:
        library = Path(sysconfig.get_paths()["stdlib"])
        return _Package(_files(library), library, "", PREFIX)
    folder = Path(name).expanduser()
    if folder.is_dir():
        prefix = folder.resolve().name if (folder / "__init__.py").is_file() else ""
        return _Package(_files(folder), folder, prefix, f"{name.rstrip('/')}/")
    return _installed(source, name)


def _installed(source: str, name: str) -> _Package:
    """Returns an installed package without importing it."""
    top, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(top) if top and "/" not in name else None
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]).joinpath(*inner)
        if folder.is_dir():
            return _Package(_files(folder), folder, name, f"{PREFIX}{name.replace('.', '/')}/")
    elif spec is not None and spec.origin and spec.origin.endswith(".py") and not inner:
        return _Package([Path(spec.origin)], Path(spec.origin).parent, "", PREFIX)
    raise InputError(
        f"{source}: no installed package '{name}' with Python code, and no such folder",
        "name a package (python:json), a folder (python:./src), or python: for the standard library",
    )


def _files(folder: Path) -> list[Path]:
    found = (file.relative_to(folder) for file in folder.rglob("*.py"))
    return [folder / file for file in sorted(found) if _SKIPPED.isdisjoint(file.parts[:-1])]


def _parts(package: _Package, split: str) -> Iterator[Part]:
    rows = Rows()
    for file in package.files:
        origin = f"{package.origin}{file.relative_to(package.base).as_posix()}"
        _take(rows, file, origin, package.module(file), split)
        rows.size += 1
        if rows.ready or rows.size >= FILES_PER_PART:
            yield rows.part()
    yield rows.part()


def _take(rows: Rows, file: Path, origin: str, module: str, split: str) -> None:
    try:
        source = importlib.util.decode_source(file.read_bytes())
        with warnings.catch_warnings():
            # Warnings about the style of other people's code do not help the user.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, OSError) as error:
        line = getattr(error, "lineno", None)
        rows.start("functions", origin, line, error)
        rows.reject("not_python", f"does not parse: {getattr(error, 'msg', None) or error}")
        return
    lines = source.split("\n")
    seen: dict[str, int] = {}
    for name, function in _functions(tree, module):
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}#{seen[name]}"
        query = first_paragraph(function)
        if query and not _is_stub(function):
            document = without_docstring(function, lines)
            rows.start("functions", origin, function.lineno, name, query, document)
            query_id = content_id("q-", query)
            rows.query(query_id, query)
            rows.document(name, document)
            rows.judgment(query_id, name, split)


def _functions(node: ast.AST, name: str) -> Iterator[tuple[str, Function]]:
    """Yields every function below a node, in order, with its qualified name."""
    for child in _statements(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield inner, child
            yield from _functions(child, inner)
        else:
            yield from _functions(child, name)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the statements in the blocks of a node; expressions contain no functions with docstrings."""
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        inner = getattr(node, block, ())
        if isinstance(inner, list):
            yield from inner


def first_paragraph(function: Function) -> str:
    """Returns the first paragraph of a docstring on one line; empty if there is none."""
    docstring = ast.get_docstring(function) or ""
    return " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split())


def _is_stub(function: Function) -> bool:
    """Returns whether the body is only pass, ... or raise NotImplementedError."""
    return all(_does_nothing(statement) for statement in function.body[1:])


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value is ...
    return isinstance(statement, ast.Pass)


def without_docstring(function: Function, lines: list[str]) -> str:
    """Returns the source of a function from `def` on, without its docstring and without indentation.

    `lines` are the lines of the file, without line ends.
    """
    docstring = function.body[0]
    first, last = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
    # Columns of the syntax tree count UTF-8 bytes.
    before = lines[first].encode()[: docstring.col_offset].decode()
    after = lines[last].encode()[docstring.end_col_offset :].decode().lstrip(" ;")
    joint = [before + after] if (before + after).strip() else []
    kept = [
        *lines[function.lineno - 1 : first],
        *joint,
        *lines[last + 1 : function.end_lineno],
    ]
    indent = function.col_offset
    return "\n".join(line[indent:] if not line[:indent].strip() else line for line in kept).rstrip()
