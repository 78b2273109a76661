"""What users bring to a search: candidates that another tool found, and vectors that another program made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ID = pa.dictionary(pa.int32(), pa.string())

CANDIDATES = pa.schema(
    [
        pa.field("query_id", ID, nullable=False),
        pa.field("doc_id", ID, nullable=False),
        pa.field("rank", pa.int32()),
        pa.field("score", pa.float64()),
    ]
)
"""Every pair once. Either all pairs have a finite score, or none has one and all have a rank."""


@dataclass(frozen=True)
class Candidates:
    """Candidates of queries, with the rank or the score that another tool gave them."""

    origin: str
    """The file or folder, as the user named it."""
    table: pa.Table
    """The columns of CANDIDATES."""
    digest: str
    """sha256 of the content that was read."""
    note: str = ""
    """A message to the user about what was read; empty for none."""

    @property
    def has_scores(self) -> bool:
        """Whether the pairs have scores, and not ranks alone."""
        return bool(self.table["score"].null_count == 0)


@dataclass(frozen=True)
class IdVectors:
    """Vectors with the id of each."""

    origin: str
    ids: pa.Array
    """Distinct texts."""
    vectors: npt.NDArray[Any]
    """One row per id, as the file has them: float16, float32 or float64, or BFLOAT16; mapped if possible."""


BFLOAT16 = np.dtype(np.uint16)
"""NumPy has no bfloat16: such numbers are kept as the 16 bits that they are."""


@dataclass(frozen=True)
class VectorSet:
    """The vectors of documents and queries, of one length."""

    origin: str
    documents: IdVectors
    queries: IdVectors
    similarity: str
    """One of `models.similarity.SIMILARITIES`."""
    digest: str
    """sha256 of the content that was read."""
    note: str = ""
    """A message to the user about what was read; empty for none."""
