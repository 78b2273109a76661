"""Vectors that another program made: a folder with those of the documents and those of the queries.

For each of the two, the folder has vectors with their ids, in files whose names begin with `documents` or
`queries`, or in a folder of that name:

- a .npy, or a .safetensors with one matrix, and the ids in a .txt (one per line), a .json (a list) or a .npy;
- one or several .parquet, or .jsonl as Pyserini writes them, with an id and a list of numbers in each row.

`config.json` may name the similarity. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from miner.collection.given import BFLOAT16, IdVectors, VectorSet
from miner.errors import InputError, MinerError, counted, listed, near, shown
from miner.faults import read_json
from miner.models.similarity import COSINE, SIMILARITIES
from miner.sources.columns import BLOCK, column_named, digest_of, encoded
from miner.sources.files import File, lines, require_kind, require_local, tree, unread
from miner.sources.table import open_parquet
from miner.sources.values import parse_json
from miner.text import fingerprint

_ROLES = {
    "documents": ("documents", "document", "docs", "doc", "corpus", "passages", "passage", "collection"),
    "queries": ("queries", "query", "topics", "topic", "questions", "question"),
}
"""The first word of the name of a file or a folder, and whose vectors it holds."""
_ID_WORDS = frozenset(("id", "ids", "docid", "docids", "docno", "docnos", "qid", "qids"))
_IDS = ("_id", "id", "docid", "doc_id", "doc-id", "document_id", "corpus-id", "corpus_id", "docno", "pid")
_QUERY_IDS = ("_id", "id", "qid", "query_id", "query-id", "topic_id", "topic")
_VECTORS = ("vector", "vectors", "embedding", "embeddings", "emb", "values")
"""Names of columns, and of the matrix of a .safetensors with several."""
_MATRICES, _TABLES = (".npy", ".safetensors"), (".parquet", ".jsonl", ".ndjson")
_CONFIGS = {"config.json": "similarity", "config_sentence_transformers.json": "similarity_fn_name"}
_TENSORS: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": BFLOAT16,
}
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")
_LONGEST_HEADER = 100_000_000
_LAYOUT = (
    "write documents.npy and queries.npy with documents.ids.txt and queries.ids.txt, or documents.parquet "
    "and queries.parquet with the columns id and vector"
)


def read_vectors(source: str | os.PathLike[str]) -> VectorSet:
    """Returns the vectors in a folder; a .npy or .safetensors file is mapped, not read.

    Raises InputError for a folder without vectors of documents and queries, for more or fewer ids than
    vectors, an id that occurs twice, and vectors of different lengths.
    """
    origin = os.fspath(source).rstrip("/") or "/"
    folder = Path(origin).expanduser()
    require_local(origin, "vectors")
    if folder.is_file():
        raise InputError(f"{origin}: a file, and vectors are given as a folder", _instead(folder))
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"{origin}: there is no such folder{near(folder.name, siblings)}", _LAYOUT)
    files = tree(origin, folder)
    similarity, settings = _similarity(files, folder)
    by_role = {
        role: [file for file in files if file not in settings and _role(file, folder) == role]
        for role in _ROLES
    }
    try:
        read = {role: _read(origin, role, found, files) for role, found in by_role.items()}
    except OSError as error:
        raise InputError(
            f"{origin}: cannot be read: {error}", "check the files and their permissions"
        ) from error
    sizes = {role: vectors.vectors.shape[1] for role, (vectors, _) in read.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"{origin}: the vectors of documents have {sizes['documents']:,} numbers, those of queries "
            f"{sizes['queries']:,}",
            "give vectors of one model",
        )
    used = [*settings, *(file for _, found in read.values() for file in found)]
    left = [(file, "not vectors of documents or queries") for file in files if file not in used]
    digests = {role: digest_of(found) for role, (_, found) in read.items()}
    return VectorSet(
        origin,
        read["documents"][0],
        read["queries"][0],
        similarity,
        fingerprint(digests),
        "\n".join(unread(left, folder)),
    )


def _instead(file: Path) -> str:
    """Returns what to do with a file that is named as a folder of vectors."""
    if file.suffix in (*_MATRICES, *_PICKLES):
        return _LAYOUT
    return f"a run, or a table of candidates, is for --candidates; for vectors, {_LAYOUT}"


def _similarity(files: Sequence[File], folder: Path) -> tuple[str, list[File]]:
    """Returns the similarity that a file of settings names, else cosine; and the files of settings."""
    found, settings = COSINE, []
    for file in files:
        key = _CONFIGS.get(file.path.name) if file.path.parent == folder else None
        if key is None:
            continue
        try:
            config: Mapping[str, Any] = read_json(file.path, dict, 'write {"similarity": "cosine"}')
        except MinerError as error:
            raise InputError(error.message, error.hint) from error
        settings.append(file)
        name = config.get(key)
        if name is None and key == "similarity":
            raise InputError(
                f"{file.origin}: no key 'similarity'{near(key, config)}",
                f"name one of {listed(SIMILARITIES)}",
            )
        if name is not None and name not in SIMILARITIES:
            raise InputError(
                f"{file.origin}: no similarity '{shown(name)}'{near(str(name), SIMILARITIES)}",
                f"name one of {listed(SIMILARITIES)}",
            )
        found = name or found
    return found, settings


def _words(path: Path) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", path.name.lower()) if word]


def _role(file: File, folder: Path) -> str | None:
    """Returns whether a file is about the documents or the queries, by its folder or its name."""
    first = Path(file.path.relative_to(folder).parts[0])
    words = _words(first)
    return next((role for role, names in _ROLES.items() if words and words[0] in names), None)


def _read(
    source: str, role: str, files: Sequence[File], every: Sequence[File]
) -> tuple[IdVectors, list[File]]:
    """Returns the vectors of one role, and the files that were read."""
    usable = [file for file in files if not file.fault]
    matrices = [file for file in usable if file.suffix in _MATRICES and not _is_ids(file)]
    tables = [file for file in usable if file.suffix in _TABLES and not _is_ids(file)]
    if len(matrices) + bool(tables) > 1:
        several = [file.path.name for file in (*matrices, *tables)]
        raise InputError(
            f"{source}: several files of vectors of {role}: {listed(several)}", "leave one of them"
        )
    if tables:
        return _table(tables, role), tables
    if not matrices:
        raise _none(source, role, every)
    (matrix,) = matrices
    found = [file for file in usable if file is not matrix and (_is_ids(file) or file.suffix == ".txt")]
    if len(found) != 1:
        names = f": {listed(file.path.name for file in found)}" if found else ""
        raise InputError(
            f"{matrix.origin}: {counted(len(found), 'file')} with the ids of its rows{names}",
            f"write the ids into {role}.ids.txt, one in a line, in the order of the rows",
        )
    vectors = _npy(matrix) if matrix.suffix == ".npy" else _safetensors(matrix)
    ids = _ids(found[0])
    if len(ids) != len(vectors):
        raise InputError(
            f"{found[0].origin} has {counted(len(ids), 'id')}, but {matrix.origin} has "
            f"{counted(len(vectors), 'vector')}",
            "give every vector one id",
        )
    return IdVectors(matrix.origin, _distinct(ids, found[0]), vectors), [matrix, found[0]]


def _is_ids(file: File) -> bool:
    return bool(_ID_WORDS & set(_words(file.path)))


def _none(source: str, role: str, files: Sequence[File]) -> InputError:
    """Returns the error for a folder without vectors of a role; it names a conversion if there is one."""
    if pickle := next((file for file in files if file.suffix in _PICKLES), None):
        return InputError(
            f"{source}: no vectors of {role} that can be read; {pickle.path.name} is a pickle, which can "
            "run code when it is opened",
            f"load it where it was made, and write it with numpy.save; {_LAYOUT}",
        )
    if index := next((file for file in files if file.path.name in ("index", "index.faiss")), None):
        return InputError(
            f"{source}: no vectors of {role} that can be read; {index.path.name} is an index of FAISS",
            "write its vectors: numpy.save('documents.npy', index.reconstruct_n(0, index.ntotal)), and the "
            "ids into documents.ids.txt",
        )
    return InputError(
        f"{source}: no vectors of {role} in {listed(f.path.name for f in files) or 'it'}", _LAYOUT
    )


def _npy(file: File) -> npt.NDArray[Any]:
    """Returns a mapped matrix of floats."""
    require_kind(file, "a matrix of NumPy")
    try:
        matrix = np.load(file.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{file.origin}: cannot be read: {error}", "write it again with numpy.save"
        ) from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        has = (
            f"{matrix.dtype} of shape {matrix.shape}" if isinstance(matrix, np.ndarray) else "several arrays"
        )
        raise InputError(f"{file.origin}: not a matrix of floats: {has}", "write a row of floats for each id")
    return _sized(matrix, file)


def _sized(matrix: npt.NDArray[Any], file: File) -> npt.NDArray[Any]:
    if not matrix.size:
        raise InputError(f"{file.origin}: no vectors: its shape is {matrix.shape}", "write a row for each id")
    return matrix


def _safetensors(file: File) -> npt.NDArray[Any]:
    """Returns the mapped matrix of a .safetensors: a header in JSON, then the bytes of each tensor."""
    size = file.size
    with open(file.path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise _broken(file, "its header has no valid length")
        text = stream.read(length)
    try:
        header = json.loads(text)
        tensors = {name: found for name, found in header.items() if name != "__metadata__"}
        name = _tensor(tensors, file)
        dtype, shape = str(tensors[name]["dtype"]), [int(n) for n in tensors[name]["shape"]]
        start, end = (int(n) for n in tensors[name]["data_offsets"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(file, "its header cannot be read") from error
    if len(shape) != 2 or dtype not in _TENSORS:
        raise InputError(
            f"{file.origin}: '{shown(name)}' is not a matrix of floats: {dtype} of shape {tuple(shape)}",
            "write a row of floats for each id",
        )
    if min(*shape, start) < 0 or end - start != shape[0] * shape[1] * _TENSORS[dtype].itemsize:
        raise _broken(file, f"'{shown(name)}' has other bytes than its shape needs")
    if 8 + length + end > size:
        raise _broken(file, "its end is missing")
    if not shape[0] * shape[1]:
        return _sized(np.zeros(shape, np.float32), file)
    return np.memmap(file.path, _TENSORS[dtype], "r", 8 + length + start, (shape[0], shape[1]))


def _broken(file: File, why: str) -> InputError:
    return InputError(f"{file.origin}: not a .safetensors file: {why}", "write it again")


def _tensor(tensors: Mapping[str, Any], file: File) -> str:
    """Returns the name of the matrix: the only one, or one that is named as vectors are."""
    found = list(tensors) if len(tensors) == 1 else [name for name in tensors if name.lower() in _VECTORS]
    if len(found) != 1:
        raise InputError(
            f"{file.origin}: {counted(len(tensors), 'tensor')} ({listed(tensors) or 'none'})",
            "write one matrix, or name it vectors",
        )
    return found[0]


def _ids(file: File) -> pa.Array:
    """Returns the ids in a .txt, .json or .npy, in order."""
    if file.suffix == ".npy":
        try:
            found = np.load(file.path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{file.origin}: cannot be read: {error}", "write the ids as text") from error
        if found.ndim != 1 or found.dtype.kind not in "iuU":
            raise InputError(
                f"{file.origin}: not a list of ids: {found.dtype} of shape {found.shape}",
                "write the ids as text",
            )
        return pa.array(found.astype(str).tolist(), pa.string())
    if file.suffix == ".json":
        try:
            values = read_json(file.path, list, "write a list of ids")
        except MinerError as error:
            raise InputError(error.message, error.hint) from error
        for number, value in enumerate(values, 1):
            if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
                raise InputError(
                    f"{file.origin}:{number}: {shown(repr(value))} is not an id",
                    "write texts or whole numbers",
                )
        return pa.array([str(value) for value in values], pa.string())
    read = list[str]()
    blank = 0
    for line in lines(file):
        text = line.text.rstrip("\r\n")
        if blank and text:
            raise InputError(f"{file.origin}:{blank}: the line is empty", "write one id in each line")
        if text:
            read.append(text)
        else:
            blank = blank or line.number
    return pa.array(read, pa.string())


def _distinct(ids: pa.Array, file: File) -> pa.Array:
    """Returns the ids; raises InputError for one that occurs twice."""
    codes = ids.dictionary_encode().indices.to_numpy()
    again = np.flatnonzero(codes <= np.maximum.accumulate(np.concatenate([[-1], codes[:-1]])))
    if len(again):
        row = int(again[0])
        first = int(np.flatnonzero(codes == codes[row])[0])
        raise InputError(
            f"{file.origin}:{row + 1}: id '{shown(ids[row])}' again, first in row {first + 1}",
            "give every id one vector",
        )
    return ids


def _table(files: Sequence[File], role: str) -> IdVectors:
    """Returns the vectors in rows with an id and a list of numbers, in memory as float32."""
    ids, parts = list[pa.Array](), list[npt.NDArray[Any]]()
    for file in files:
        before = 0
        for batch in _batches(file, role):
            keys, vectors = batch.column(0), batch.column(1)
            width = parts[0].shape[1] if parts else None
            parts.append(_matrix(vectors, width, file, before))

            def _at(row: int, what: str, hint: str, file: File = file, before: int = before) -> InputError:
                return InputError(f"{file.origin}:{before + row + 1}: {what}", hint)

            found = encoded(pa.chunked_array([keys]), "the id", _at, file.origin)
            ids.append(found.dictionary_decode())
            before += batch.num_rows
    if not parts:
        raise InputError(f"{files[0].origin}: no vectors", "write a row for each id")
    origin = files[0].origin + (f" and {len(files) - 1:,} more" if len(files) > 1 else "")
    joined = pa.concat_arrays(ids).cast(pa.string())
    return IdVectors(origin, _distinct(joined, File(files[0].path, origin)), np.concatenate(parts))


def _batches(file: File, role: str) -> Iterator[pa.RecordBatch]:
    """Yields the ids and the vectors of a table."""
    known = _IDS if role == "documents" else _QUERY_IDS
    try:
        if file.suffix == ".parquet":
            require_kind(file, "Parquet")
            with open_parquet(file.path) as parquet:
                chosen = _chosen(parquet.schema_arrow, known, file)
                for batch in parquet.iter_batches(columns=chosen):
                    yield batch.select(chosen)
            return
        yield from _json_rows(file, known).to_batches()
    except pa.ArrowException as error:
        raise InputError(f"{file.origin}: cannot be read: {error}", "write it again") from error


def _json_rows(file: File, known: Sequence[str]) -> pa.Table:
    """Returns the ids and the vectors in JSON lines, whose first row has the types of all."""
    first = next((line for line in lines(file) if line.text.strip()), None)
    if first is None:
        raise InputError(f"{file.origin}: the file is empty", "write an id and a list of numbers in each row")
    record = parse_json(first.text, file.origin, first.number, json.JSONDecoder())
    types = {name: _json_type(value) for name, value in record.items()}
    identity, vector = _chosen(pa.schema(types.items()), known, file)
    wanted = pa.schema([(identity, types[identity]), (vector, types[vector])])
    table = pa.json.read_json(
        file.path,
        pa.json.ReadOptions(block_size=BLOCK),
        pa.json.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore"),
    )
    table.validate(full=True)
    return table.select([identity, vector])


def _json_type(value: object) -> pa.DataType:
    if isinstance(value, list):
        return pa.list_(pa.float32())
    return pa.int64() if isinstance(value, int) and not isinstance(value, bool) else pa.string()


def _chosen(schema: pa.Schema, known: Sequence[str], file: File) -> list[str]:
    """Returns the names of the id and the vector."""
    identity = column_named(schema.names, known)
    lists = [field.name for field in schema if pa.types.is_list(field.type) or _is_fixed(field.type)]
    vector = column_named(lists, _VECTORS) or (lists[0] if len(lists) == 1 else None)
    for found, name in ((identity, "id"), (vector, "vector")):
        if found is None:
            raise InputError(
                f"{file.origin}: no column '{name}'{near(name, schema.names)}",
                f"its columns: {listed(schema.names)}; write an id and a list of numbers in each row",
            )
    return [identity or "", vector or ""]


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))


def _matrix(column: pa.Array, width: int | None, file: File, before: int) -> npt.NDArray[np.float32]:
    """Returns lists of numbers as a matrix; a row without a list is NaN."""
    if not (pa.types.is_floating(column.type.value_type) or pa.types.is_integer(column.type.value_type)):
        raise InputError(
            f"{file.origin}: the vectors have values of type {column.type.value_type}", "write floats"
        )
    known = column.is_valid().to_numpy(zero_copy_only=False)
    present = column.filter(pa.array(known))
    sizes = pc.list_value_length(present).to_numpy()
    if width is None:
        width = int(sizes[0]) if len(sizes) else 0
    wrong = sizes != width
    if wrong.any():
        at = int(wrong.argmax())
        row = before + int(np.flatnonzero(known)[at]) + 1
        raise InputError(
            f"{file.origin}:{row}: a vector of {sizes[at]:,} numbers, where the others have {width:,}",
            "give all vectors one length",
        )
    matrix = np.full((len(column), width), np.nan, dtype=np.float32)
    numbers = pc.list_flatten(present).cast(pa.float32(), safe=False)
    matrix[known] = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix
