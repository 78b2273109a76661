"""Folders: linked folders are read like others, once; what cannot be read is listed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from miner.errors import InputError
from miner.sources import SourceConfig, open_source
from miner.sources.files import tree
from tests.sources_support import beir, collect, write

DOC = "<DOC>\n<DOCNO> {} </DOCNO>\n<TEXT>\n{}\n</TEXT>\n</DOC>\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def origins(folder: Path) -> list[tuple[str, str]]:
    """Returns name and fault of every file below a folder."""
    return [(file.origin.removeprefix(f"{folder}/"), file.fault) for file in tree(str(folder), folder)]


def test_a_linked_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/deep/two", DOC.format("D2", "two"))
    write(tmp_path / "set/one", DOC.format("D1", "one"))
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    found = [(row["doc_id"], row["origin"]) for row in collect(tmp_path / "set")["documents"]]
    assert found == [("D2", f"{tmp_path}/set/linked/deep/two"), ("D1", f"{tmp_path}/set/one")]


def test_a_folder_behind_several_links_is_read_once_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "set/z/x", "x")
    write(tmp_path / "far/sub/y", "y")
    (tmp_path / "far/back").symlink_to(tmp_path / "set/z")
    for name, target in {"set/a": "z", "set/z/loop": "..", "set/b": "../far/sub", "set/c": "../far"}.items():
        (tmp_path / name).symlink_to(target)
    assert origins(tmp_path / "set") == [("b/y", ""), ("z/x", "")]
    (tmp_path / "set/up").symlink_to("..")
    assert ("up", "a link to a folder that contains it") in origins(tmp_path / "set")


def test_what_cannot_be_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "one", DOC.format("D1", "one"))
    (folder / "gone").symlink_to("nothing")
    (folder / "self").symlink_to("self")
    os.mkfifo(folder / "fifo")
    expected = ["not read: fifo (a pipe)", "not read: gone, self (a broken link)"]
    assert open_source(str(folder), SourceConfig()).note.splitlines() == expected
    (folder / "one").unlink()
    write(folder / "pairs.tsv", "query\tpositive\nthe a\tb\n")
    assert open_source(str(folder), SourceConfig()).note.splitlines() == expected
    beir(folder, {"d1": "a"}, {"q1": "b"}, test=[("q1", "d1", 1)])
    assert open_source(str(folder), SourceConfig()).note.splitlines()[:2] == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_the_right_to_read_it_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "set/one", "x")
    (tmp_path / "set/closed").mkdir(mode=0)
    assert ("closed", "a folder that cannot be read: Permission denied") in origins(tmp_path / "set")


@pytest.mark.parametrize("options", [{}, {"format": "trec"}, {"format": "pairs"}])
def test_a_pipe_as_a_source_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    os.mkfifo(tmp_path / "p.tsv")
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path / "p.tsv"), SourceConfig(**options))
    expected = f"{tmp_path}/p.tsv: a pipe, not a file or folder; write the data to a file first"
    assert str(caught.value) == expected


def test_a_folder_of_data_sets_is_not_one_data_set(tmp_path: Path) -> None:
    for name in ("law", "tax"):
        beir(tmp_path / name, {"d": "text"}, {"q": "text"}, train=[("q", "d", 1)])
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path), SourceConfig())
    assert str(caught.value) == (
        f"{tmp_path}: not a data set, but a folder of BEIR folders: law, tax; "
        f"name one of them: {tmp_path}/law"
    )


def test_a_folder_with_the_manifest_of_another_tool_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "out/manifest.json", '{\n  "rows": 1\n}')
    write(tmp_path / "out/data/train.jsonl", '{"query": "a", "positive": "b"}')
    with pytest.raises(InputError, match=f"name {tmp_path}/out/data$"):
        open_source(str(tmp_path / "out"), SourceConfig())
    assert collect(tmp_path / "out/data")["judgments"]
