"""What holds for the whole package: layers, start-up, help, public names, size."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import miner
from miner.cli.main import COMMANDS, group
from miner.store.database import Database

HEAVY = ("torch", "faiss", "transformers", "sentence_transformers", "datasets", "bm25s", "scipy")


def commands() -> Iterator[click.Command]:
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None, name
        yield command


def sources(root: Path) -> list[Path]:
    return sorted(path for folder in ("miner", "scripts") for path in (root / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_imports_go_one_way(root: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 1 kept, 0 broken." in done.stdout


def test_every_command_and_option_has_help() -> None:
    for command in commands():
        assert command.help, command.name
        for parameter in command.params:
            # Not isinstance: rich-click replaces the class once a help page was shown.
            if parameter.param_type_name == "option":
                assert parameter.help, f"{command.name} {parameter.opts}"


def test_every_command_is_called_as_it_is_listed() -> None:
    assert [command.name for command in commands()] == list(COMMANDS)


def test_every_option_of_the_group_has_help() -> None:
    for parameter in group.params:
        assert parameter.param_type_name == "option"
        assert parameter.help


@pytest.mark.parametrize("arguments", [["--help"], ["sql", "STORE", "SELECT count(*) FROM documents"]])
def test_start_up_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    store = tmp_path / "my.duckdb"
    Database.open(store, create=True).close()
    arguments = [str(store) if argument == "STORE" else argument for argument in arguments]
    script = (
        "import sys; from miner.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('LOADED', *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split("LOADED")[1].split())
    assert loaded & {*HEAVY, "pyarrow", "pandas", "numpy"} == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, miner; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {*HEAVY, "duckdb", "pyarrow", "click"} == set()


def test_all_is_sorted_and_equals_the_public_names() -> None:
    assert list(miner.__all__) == sorted(miner.__all__)
    for name in miner.__all__:
        assert getattr(miner, name).__name__ == name
    assert {name for name in dir(miner) if not name.startswith("_")} == set(miner.__all__)


def test_type_checkers_see_the_same_names(root: Path) -> None:
    tree = ast.parse((root / "miner" / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = [name.name for node in guarded.body if isinstance(node, ast.ImportFrom) for name in node.names]
    assert sorted(seen) == list(miner.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'miner' has no attribute 'nonsense'"):
        _ = miner.nonsense


@pytest.mark.parametrize(
    "script", ["scripts/cli_reference.py", "scripts/results_page.py", "benchmarks/needs.py"]
)
def test_written_docs_are_current(root: Path, script: str, script_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, root / script, "--check"],
        env=script_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_file_is_too_long(root: Path) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(root)}
    assert {str(path): lines for path, lines in lengths.items() if lines > 500} == {}


def test_no_function_is_too_long(root: Path) -> None:
    over = [
        f"{path}:{node.lineno} {node.name}"
        for path in sources(root)
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > 80
    ]
    assert over == []


def test_sql_stays_in_the_store(root: Path) -> None:
    """Nobody but the store talks to DuckDB."""
    outside = [path for path in sources(root) if "store" not in path.parts and path.name != "doctor.py"]
    importing = [
        str(path)
        for path in outside
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(name.name == "duckdb" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "duckdb")
    ]
    assert importing == []


def test_the_library_does_not_print(root: Path) -> None:
    printing = [
        f"{path}:{node.lineno}"
        for path in sources(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


@pytest.mark.parametrize("word", ["pickle.load", "trust_remote_code=True", "yaml.load("])
def test_nothing_runs_code_from_files(root: Path, word: str) -> None:
    assert [str(path) for path in sources(root) if word in path.read_text(encoding="utf-8")] == []


WRITERS = {
    # into a file that engine/files.py puts into place
    "auditing/sample_file.py", "auditing/report.py", "judging/batch.py", "review/exchange.py",
    "workflows/bench_report.py", "workflows/tune_report.py", "reporting/charts.py", "cli/sql.py",
    # into a new folder that engine/files.py puts into place
    "export/__init__.py", "export/manifest.py", "export/writers.py", "training/model_card.py",
    "training/reranker.py", "training/workspace.py", "retrieval/postings.py",
    # beside its place on purpose: the name of the writer in a lock file; vectors and answers, each with its
    # checksum
    "store/lock.py", "models/row_cache.py", "store/journal.py",
    # into a temporary folder of a cluster's worker
    "retrieval/vector_shards.py", "models/remote.py",
}  # fmt: skip
"""Modules that write files themselves. A result appears whole or not at all: think before adding one."""


def test_files_are_written_through_one_module(root: Path) -> None:
    found = set()
    for path in sorted((root / "miner").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _writes(node):
                found.add(path.relative_to(root / "miner").as_posix())
    assert found - {"engine/files.py"} == WRITERS


def _writes(call: ast.Call) -> bool:
    """Returns whether a call writes a file: write_text, write_bytes, savefig, or open for writing."""
    if ast.unparse(call.func) == "os.open":
        return any("O_WRONLY" in ast.unparse(one) or "O_RDWR" in ast.unparse(one) for one in call.args)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    modes = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return (
        name in ("write_text", "write_bytes", "savefig") and "formatter" not in ast.unparse(call.func)
    ) or (name == "open" and any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes))
