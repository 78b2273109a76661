"""The examples of the pages on sources run and say what the pages say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from miner.cli.main import main
from tests.sources_support import rows

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-source.md"


def test_the_example_runs(tmp_path: Path) -> None:
    text = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"It prints `{done.stdout.strip()}`" in text
    assert rows(tmp_path / "faq.duckdb", "SELECT text FROM documents ORDER BY text") == [
        ("No.",),
        ("Yes, within 30 days.",),
    ]


def test_the_page_on_formats_shows_what_an_ingest_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.with_name("formats.md").read_text("utf-8")
    rows_of_file, shown = re.findall(r"```text\n(.*?)```", page, re.DOTALL)[:2]
    command, _, expected = shown.partition("\n")
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text(rows_of_file)
    with pytest.raises(SystemExit):
        main(shlex.split(command)[2:])
    assert capsys.readouterr().err == expected


def test_the_example_of_what_ingest_reads_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.with_name("sources.md").read_text("utf-8").split("## Splits")[0]
    csv, refused, read = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    commands = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("questions.csv").write_text(csv)
    for command, expected in zip(commands, (refused, read), strict=True):
        with pytest.raises(SystemExit):
            main(shlex.split(command.replace("\\\n", ""))[1:])
        assert capsys.readouterr().err.split() == expected.split()
