"""The allowed FAISS indexes, as a grammar: other factory strings can make FAISS end the process."""

from __future__ import annotations

import re

from miner.errors import UsageError
from miner.ranges import Range, literal, whole

EXAMPLES = (
    "Flat | IVF1024,Flat | IVF1024,SQfp16 | IVF1024,PQ16 | HNSW32 | HNSW32,SQ8 | PCA64,IVF1024,SQ8 | "
    "OPQ16,IVF1024,PQ16"
)
_LINKS = whole(2, 512)
_LISTS = whole(1, 10_000_000)
_WIDTH = whole(1, 1_000_000)
_BITS = whole(4, 12)
_TRANSFORM = re.compile(r"OPQ(?P<parts>\d+)(?:_(?P<width>\d+))?|PCAR?(?P<reduced>\d+)")
_COARSE = re.compile(r"IVF(?P<lists>\d+)(?:_HNSW(?P<links>\d+))?")
_GRAPH = re.compile(r"HNSW(?P<links>\d+)")
_CODES = re.compile(r"Flat|SQ8|SQ6|SQ4|SQfp16|SQbf16|PQ(?P<parts>\d+)(?:x(?P<bits>\d+))?")


def check_index(factory: str, dimension: int | None = None) -> None:
    """Raises UsageError for a FAISS factory string outside the grammar, or that does not fit `dimension`.

    The grammar is [OPQm[_d],|PCAd,|PCARd,] then codes, IVFn[_HNSWm],codes, HNSWm or HNSWm,codes, where codes
    are Flat, SQ8, SQ6, SQ4, SQfp16, SQbf16 or PQm[xb].
    """
    parts = factory.split(",")
    width = dimension
    if (match := _TRANSFORM.fullmatch(parts[0])) and len(parts) > 1:
        width = _transformed(factory, match, dimension)
        parts = parts[1:]
    if match := _GRAPH.fullmatch(parts[0]):
        _bounded(factory, "HNSW", match["links"], _LINKS)
        parts = parts[1:] or ["Flat"]
    elif (match := _COARSE.fullmatch(parts[0])) and len(parts) > 1:
        _bounded(factory, "IVF", match["lists"], _LISTS)
        _bounded(factory, "HNSW", match["links"], _LINKS)
        parts = parts[1:]
    codes = _CODES.fullmatch(parts[0]) if len(parts) == 1 else None
    if codes is None:
        raise UsageError(
            f"index {literal(factory)} is not one that miner builds", f"use one such as {EXAMPLES}"
        )
    _bounded(factory, "PQ", codes["parts"], _WIDTH)
    _bounded(factory, "the bits of PQ", codes["bits"], _BITS)
    _require_division(factory, "PQ", codes["parts"], width)


def _transformed(factory: str, match: re.Match[str], dimension: int | None) -> int | None:
    """Returns the length of the vectors after OPQ or PCA."""
    for name in ("parts", "width", "reduced"):
        _bounded(factory, match[0].rstrip("_0123456789"), match[name], _WIDTH)
    kept = match["width"] or match["reduced"]
    width = int(kept) if kept else dimension
    if dimension is not None and width is not None and width > dimension:
        raise UsageError(
            f"index {literal(factory)}: {match[0]} makes {width:,} numbers from vectors of {dimension:,}",
            f"use at most {dimension}",
        )
    _require_division(factory, "OPQ", match["parts"], width)
    return width


def _bounded(factory: str, what: str, digits: str | None, allowed: Range) -> None:
    if digits is not None and allowed.parse(digits) is None:
        raise UsageError(f"index {literal(factory)}: {what} must have {allowed}, got {literal(digits)[1:-1]}")


def _require_division(factory: str, what: str, digits: str | None, width: int | None) -> None:
    if digits is not None and width is not None and width % int(digits):
        raise UsageError(
            f"index {literal(factory)}: {what}{digits} does not divide vectors of {width:,} numbers",
            "use a divisor of the length of a vector",
        )
