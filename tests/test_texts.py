"""The texts of a collection: read in blocks or by position, equal to the store's, never all in memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miner.collection.collection import Collection
from miner.collection.overlap import Words, signatures
from miner.collection.texts import Strings, spooled
from miner.sources import ingest
from miner.store.database import Database
from miner.text import PASSAGE, normalise, words
from tests.stores import make_store

TEXTS = ["bread", "", "weiß und groß", "東京 に 行く", "a b c d e", "🙂" * 9, "the last one\n"]


def in_order(store: Database) -> list[str]:
    return [text for (text,) in store.rows("SELECT text FROM document_texts ORDER BY doc_id")]


def loaded(path: Path, read_only: bool = False) -> tuple[Collection, list[str]]:
    """Returns the collection of a store that stays open, and its texts in order."""
    store = Database.open(path, read_only=read_only)
    return Collection.load(store, "train"), in_order(store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "s.duckdb"
    documents = {f"d{(i * 37) % 100:02}": f"{TEXTS[i % len(TEXTS)]} {i}" for i in range(100)}
    titles = {key: f"title {key}" for key in list(documents)[::3]}
    make_store(path, documents, {"q": "bread"}, [("q", "d03")], titles=titles).close()
    return path


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 100, 1000])
def test_blocks_are_the_texts_in_order_of_position(path: Path, rows: int, read_only: bool) -> None:
    collection, expected = loaded(path, read_only)
    blocks = [block.to_pylist() for block in collection.text_blocks(rows)]
    assert [text for block in blocks for text in block] == expected
    assert all(len(block) == rows for block in blocks[:-1])
    assert len(blocks[-1]) <= rows
    assert "text" not in collection.documents.column_names


def test_texts_by_position(path: Path) -> None:
    collection, expected = loaded(path)
    for positions in ([], [0], [99, 0, 50, 50], list(range(100))):
        found = collection.texts_of(np.array(positions, dtype=np.int32))
        assert found.to_pylist() == [expected[i] for i in positions]
        lengths = collection.text_lengths(np.array(positions, dtype=np.int64))
        assert lengths.tolist() == [len(expected[i]) for i in positions]


def test_a_block_stays_right_after_the_next_one_is_read(path: Path) -> None:
    collection, expected = loaded(path)
    blocks = list(collection.text_blocks(9))
    assert [text for block in blocks for text in block.to_pylist()] == expected


def test_some_documents_of_a_collection(path: Path) -> None:
    collection, expected = loaded(path)
    some = collection.of_documents(np.array([5, 1, 9]))
    again = some.of_documents(np.array([2, 0]))
    assert some.doc_ids.to_pylist() == ["d05", "d01", "d09"]
    assert some.texts_of(np.arange(3)).to_pylist() == [expected[i] for i in (5, 1, 9)]
    assert [block.to_pylist() for block in again.text_blocks(1)] == [[expected[9]], [expected[5]]]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_strings_are_the_texts_whatever_the_block(path: Path, block: int) -> None:
    _, expected = loaded(path)
    order = np.array([5, 1, 99, 1, *range(40)])
    parts = [pa.record_batch({"text": expected[:60]}), pa.record_batch({"text": expected[60:]})]
    found = Strings(spooled(parts, path.parent).chosen(order), block)
    wanted = [expected[i] for i in order]
    assert list(found) == wanted
    assert (found[0], found[-1], found[2:9:3], len(found)) == (wanted[0], wanted[-1], wanted[2:9:3], 44)
    assert found.of(np.array([3, 3, 0])) == [wanted[3], wanted[3], wanted[0]]


def test_texts_after_several_ingests_and_changes(path: Path, tmp_path: Path) -> None:
    for number in range(3):
        rows = [f"c{number}{i} words of ingest {number}\tquery {number}" for i in range(9)]
        source = tmp_path / f"pairs{number}.tsv"
        source.write_text("\n".join(["positive\tquery", *rows]) + "\n", "utf-8")
        ingest(path, [str(source)])
        collection, expected = loaded(path)
        assert pa.concat_arrays(list(collection.text_blocks(11))).to_pylist() == expected
    with Database.open(path) as store:
        store.execute("DELETE FROM documents WHERE doc_id < 'd40' AND doc_id <> 'd03'")
        store.execute("UPDATE documents SET text = 'changed' WHERE doc_id = 'd77'")
    collection, expected = loaded(path)
    assert pa.concat_arrays(list(collection.text_blocks(11))).to_pylist() == expected
    assert sum(text.endswith("changed") for text in expected) == 1


def test_a_store_that_is_read_may_be_written_to_before_its_texts_are(path: Path) -> None:
    with Database.open(path, read_only=True) as store:
        collection, expected = Collection.load(store, "train"), in_order(store)
    with Database.open(path) as store:
        store.execute("UPDATE documents SET text = 'changed'")
    assert collection.texts_of(np.arange(100)).to_pylist() == expected


def test_nothing_of_the_texts_is_left_beside_the_store(path: Path) -> None:
    before = sorted(file.name for file in path.parent.iterdir())
    collection, expected = loaded(path)
    assert collection.texts_of(np.array([4])).to_pylist() == expected[4:5]
    assert sorted(file.name for file in path.parent.iterdir() if "lock" not in file.name) == [
        name for name in before if "lock" not in name
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_kill_leaves_nothing_beside_the_store(path: Path) -> None:
    before = {file.name for file in path.parent.iterdir()}
    script = (
        "import os, sys, numpy as np\nfrom pathlib import Path\n"
        "from miner.collection.collection import Collection\nfrom miner.store.database import Database\n"
        "store = Database.open(Path(sys.argv[1]))\n"
        "collection = Collection.load(store, 'train')\n"
        "assert len(collection.texts_of(np.arange(100))) == 100\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with Database.open(path) as store:
        assert len(in_order(store)) == 100
    assert {file.name for file in path.parent.iterdir()} <= before | {f".{path.name}.miner-lock"}


def test_a_folder_that_cannot_be_written_is_not_needed(tmp_path: Path) -> None:
    batches = [pa.record_batch({"text": pa.array(TEXTS[:3])}), pa.record_batch({"text": pa.array(TEXTS[3:])})]
    texts = spooled(iter(batches), tmp_path / "missing")
    assert [text for block in texts.blocks(2) for text in block.to_pylist()] == TEXTS


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_texts(tmp_path: Path, texts: list[str]) -> None:
    found = spooled(iter([pa.record_batch({"text": pa.array(texts, pa.string())})]), tmp_path)
    assert [text for block in found.blocks(5) for text in block.to_pylist()] == texts
    assert spooled(iter([]), tmp_path).of(np.zeros(0, dtype=np.int64)).to_pylist() == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone reports the memory")
def test_reading_all_texts_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    script = (
        "import sys, pyarrow as pa\nfrom pathlib import Path\n"
        "from miner.collection.texts import spooled\nfrom miner.memory import peak_bytes\n"
        "batches = (pa.record_batch({'t': pa.array(['x' * 2**20] * 8)}) for _ in range(40))\n"
        "texts = spooled(batches, Path(sys.argv[1]))\n"
        "before = peak_bytes()\n"
        "assert sum(len(block) for block in texts.blocks(8) if block[-1].as_py()) == 320\n"
        "assert len(texts.of(__import__('numpy').arange(0, 320, 40))) == 8\n"
        "print(peak_bytes() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)
    assert int(done.stdout) < 100 * 2**20


# Signatures and overlaps, against the definition in plain Python


def split(text: str) -> list[str]:
    return words(normalise(text), size=1)


def contains(whole: str, part: str) -> bool:
    """Whether the words of a passage stand in a text; the last one of four or more may be cut."""
    long, short = (f" {' '.join(split(text))} " for text in (whole, part))
    if len(short) > len(long):
        return False
    return short in long or (short.count(" ") > PASSAGE and short.rstrip() in long)


LETTERS = st.sampled_from(
    ["a", "b", "ab", "B", "ß", "ss", "É", "京", "東京", "\x1c", "\x85", "\x00", ",", "ﬁ"]
)
PIECES = st.lists(st.one_of(LETTERS, st.just(" ")), max_size=12).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PIECES, PIECES), min_size=1, max_size=6))
@example([("", "a b c d"), ("a b", "c d e f"), ("東", "京 a b c")])
@example([("A", "b b b b"), ("", "a"), ("", "")])
def test_overlaps_are_those_of_the_definition(parts: list[tuple[str, str]]) -> None:
    texts = [f"{title} {text}" if title else text for title, text in parts]
    starts = np.array([len(title) + 1 if title else 0 for title, _ in parts], dtype=np.int32)
    known = Words(pa.array(texts, pa.string()).take, starts)
    pairs = [*combinations(range(len(texts)), 2), *((i, i) for i in range(len(texts)))]
    left, right = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    expected = [
        contains(texts[a], texts[b][starts[b] :]) or contains(texts[b], texts[a][starts[a] :])
        for a, b in pairs
    ]
    assert known.overlap(left, right).tolist() == expected
    assert known.overlap(left, right).tolist() == expected, "with what is known from before"


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=6))
def test_a_word_has_one_bit_wherever_it_stands(texts: list[str]) -> None:
    """So that a signature contains those of all its parts."""
    bits = {}
    for word in {word for text in texts for word in split(text)}:
        ((bit,), _) = signatures(pa.array([word]), np.zeros(1, dtype=np.int32))
        bits[word] = int(bit)
    every, required = signatures(pa.array(texts, pa.string()), np.zeros(len(texts), dtype=np.int32))
    for text, one, least in zip(texts, every.tolist(), required.tolist(), strict=True):
        found = split(text)
        assert one == union(bits[word] for word in found)
        assert least == union(bits[word] for word in (found[:-1] if len(found) >= PASSAGE else found))


def union(bits: object) -> int:
    result = 0
    for bit in bits:  # type: ignore[attr-defined]
        result |= bit
    return result


def test_signatures_tell_words_apart() -> None:
    """Words that differ in one letter, or in the order of their letters, have different bits mostly."""
    some = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    every, _ = signatures(pa.array(some), np.zeros(len(some), dtype=np.int32))
    assert len(set(every.tolist())) > 40
    assert all(bin(one).count("1") == 1 for one in every.tolist())


def test_long_texts_and_many_texts() -> None:
    rng = np.random.default_rng(5)
    vocabulary = [f"w{i}" for i in range(2000)]
    texts = [" ".join(rng.choice(vocabulary, size)) for size in [*rng.integers(1, 40, 5_000), 50_000]]
    texts[7] = texts[-1][-300:]
    known = Words(pa.array(texts).take, np.zeros(len(texts), dtype=np.int32))
    last = np.full(len(texts), len(texts) - 1, dtype=np.int32)
    found = np.flatnonzero(known.overlap(np.arange(len(texts), dtype=np.int32), last))
    longest = f" {texts[-1]} "
    expected = [i for i, text in enumerate(texts) if f" {text} " in longest]
    assert set(expected) <= set(found.tolist())
    assert all(f" {texts[i]}" in longest for i in found.tolist()), "the last word may be cut"
    assert 2 < len(found) < 2000
