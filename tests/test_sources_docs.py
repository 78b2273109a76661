"""The examples of the pages on sources run and say what the pages say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from miner.cli.main import main
from miner.export import FORMATS as EXPORTED
from miner.sources import FORMATS
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


def test_the_page_on_sources_shows_what_an_ingest_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.with_name("sources.md").read_text("utf-8")
    rows_of_file, shown = re.findall(r"```text\n(.*?)```", page, re.DOTALL)[:2]
    command, _, expected = shown.partition("\n")
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text(rows_of_file)
    with pytest.raises(SystemExit):
        main(shlex.split(command)[2:])
    assert capsys.readouterr().err == expected


def test_the_labelled_table_is_refused_and_read_as_its_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.with_name("from-a-labelled-csv.md").read_text("utf-8").split("## Tables")[0]
    (csv,) = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    refused, read = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    commands = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("answers.csv").write_text(csv)
    for command, expected in zip(commands, (refused, read), strict=True):
        with pytest.raises(SystemExit):
            main(shlex.split(command.replace("\\\n", ""))[1:])
        assert capsys.readouterr().err.split() == expected.split()


def test_the_table_of_formats_has_every_format() -> None:
    page = PAGE.with_name("formats.md").read_text("utf-8").split("## The formats")[1].split("\n##")[0]
    cells = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    for position, names in ((1, set(FORMATS) - {"auto"}), (2, set(EXPORTED))):
        assert names <= {name for row in cells for name in re.findall(r"`([\w-]+)`", row[position])}
