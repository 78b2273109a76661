"""Columns that may grade pairs: they are found wherever their values are, and the hints can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.errors import InputError
from miner.sources import SourceConfig, open_source
from miner.sources.table import nested_in
from tests.sources_support import jsonl, rows, write
from tests.test_sources_layouts import judged


@pytest.mark.parametrize(
    ("ending", "labels"), [(".tsv", ["1"] * 100_001 + ["0"] * 20), (".jsonl", ["yes"] * 100_001 + ["no"])]
)
def test_a_label_is_found_however_late_its_second_value_comes(
    tmp_path: Path, ending: str, labels: list[str]
) -> None:
    found = [{"query": f"a {i}", "positive": f"b {i}", "opinion": label} for i, label in enumerate(labels)]
    text = "query\tpositive\topinion\n" + "".join("\t".join(row.values()) + "\n" for row in found)
    path = write(tmp_path / f"t{ending}", text if ending == ".tsv" else jsonl(*found))
    with pytest.raises(InputError, match="column 'opinion' looks like a label of the pairs"):
        open_source(str(path), SourceConfig())


@pytest.mark.parametrize("column", ["label_id", "class_id", "label_idx", "relevance_number", "labelId"])
def test_an_id_of_a_label_is_a_label(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "t.tsv", f"query\tpositive\t{column}\nthe a\tb\t0\nthe a\tc\t1\n")
    with pytest.raises(InputError, match=f"column '{column}' looks like a label of the pairs"):
        open_source(str(path), SourceConfig())
    assert judged(path, relevance_column=column) == [("the a", "b", 0.0), ("the a", "c", 1.0)]


@pytest.mark.parametrize("column", ["match_id", "pair_id", "query_idx", "doc_number"])
def test_ids_of_many_values_are_no_labels(tmp_path: Path, column: str) -> None:
    lines = "".join(f"a{i}\tb{i}\t{i}\n" for i in range(20))
    path = write(tmp_path / "t.tsv", f"query\tpositive\t{column}\n{lines}")
    assert open_source(str(path), SourceConfig()).note.startswith(f"not read: columns {column}")


@pytest.mark.parametrize(
    "values", [("so so", "very good"), ("it's", 'a "b"'), ("good, very", "a=b"), ("$HOME", "*")]
)
def test_the_options_that_an_error_proposes_can_be_pasted(tmp_path: Path, values: tuple[str, str]) -> None:
    """A shell passes them on as they are, and `miner ingest` reads the column with them."""
    found = [{"query": f"a{i}", "positive": f"b{i}", "my label's": values[i % 2]} for i in range(8)]
    path = write(tmp_path / "t.jsonl", jsonl(*found))
    with pytest.raises(InputError) as caught:
        open_source(str(path), SourceConfig())
    proposed = caught.value.hint.removeprefix("to read it as relevance: ").split(" (rows with other")[0]
    options = shlex.split(proposed.replace("NUMBER", "1", 1).replace("NUMBER", "0"))
    done = CliRunner().invoke(group, ["ingest", str(tmp_path / "s.duckdb"), str(path), *options])
    assert done.exit_code == 0, done.output
    first = sorted(values)[0]
    expected = [("a" + str(i), float(values[i % 2] == first)) for i in range(8)]
    query = "SELECT text, relevance FROM judgments JOIN queries USING (query_id) ORDER BY text"
    assert rows(tmp_path / "s.duckdb", query) == expected


def test_a_column_of_lists_and_objects_is_named_as_both(tmp_path: Path) -> None:
    row = {"query": "a", "positive": "b"}
    path = write(tmp_path / "t.jsonl", jsonl({**row, "meta": {"m": 1}}, {**row, "meta": [1]}))
    assert open_source(str(path), SourceConfig()).note == "not read: columns meta (a list or an object)"
    kinds = pa.schema({"s": pa.struct({"a": pa.int8()}), "l": pa.list_(pa.int8()), "t": pa.string()})
    assert nested_in(kinds) == {"s": "an object", "l": "a list"}
