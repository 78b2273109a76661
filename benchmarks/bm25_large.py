"""How fast is BM25 when documents are many, against bm25s' numba backend and tantivy?

Made-up text with word frequencies like real text's (`../shared/tools/gen_corpus.py`): 20 to 59 words a
document, 200,000 different words, 2,000 queries of six words, top 50. All get the same words. One thread
each, in one process, one after the other; miner with two threads too. Every hit of miner has its score in
float64, and ties are in order of doc_id. bm25s and tantivy score in float32.

The seconds of miner's index are from texts in memory to the index on disk, words included; those of bm25s
and tantivy begin with the words. tantivy is measured where it is installed.

Targets, with 100,000 and 1,000,000 documents: queries per second and core at least 1.2 x those of bm25s
and 2 x those of tantivy; two threads at least 1.7 x one; an index of 1,000,000 documents in at most 30 s.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from bm25 import rate
from common import HERE, Goal, Report, alternate, parser, ratios, report, run_process, scratch, spread

from miner.collection.collection import Collection
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.terms import Terms

TOOL = HERE.parent.parent / "shared" / "tools" / "gen_corpus.py"
DEPTH = 50
OVER_BM25S = Goal("queries per second and core over bm25s numba", ">=", 1.2, " x")
OVER_TANTIVY = Goal("queries per second and core over tantivy", ">=", 2, " x")
TWO_THREADS = Goal("queries per second of two threads over one", ">=", 1.7, " x")
INDEX = Goal("seconds to index 1,000,000 documents", "<=", 30, " s")
SIZES = (100_000, 1_000_000)


def read_texts(file: Path, number: int | None = None) -> list[str]:
    """Returns the texts of a file of JSON lines, or the first of them."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in islice(lines, number)]


def collected(texts: list[str], queries: list[str]) -> Collection:
    """Returns a collection of these texts."""
    documents = {"doc_id": [f"d{i:08}" for i in range(len(texts))], "text": texts}
    questions = {"query_id": [f"q{i:06}" for i in range(len(queries))], "text": queries}
    return Collection(pa.table(documents), pa.table(questions), {"documents": ""}, "train")


def build_bm25s(words: list[list[str]]) -> Any:
    """Builds bm25s' index, for one thread of compiled code."""
    import bm25s

    index = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend="numba")
    index.index(words, show_progress=False)
    return index


def build_tantivy(words: list[list[str]], folder: Path) -> Any:
    """Builds tantivy's index with one thread, merged into segments as it likes."""
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("text", stored=False, tokenizer_name="whitespace", index_option="freq")
    folder.mkdir()
    index = tantivy.Index(schema.build(), path=str(folder))
    writer = index.writer(heap_size=1_000_000_000, num_threads=1)
    for own in words:
        writer.add_document(tantivy.Document(text=" ".join(own)))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return index


def search_tantivy(index: Any, queries: list[list[str]]) -> None:
    """Asks for the top 50 of every query."""
    searcher = index.searcher()
    for own in queries:
        searcher.search(index.parse_query(" ".join(own), ["text"]), DEPTH, count=False)


def taken(seconds: dict[str, float], name: str, make: Callable[[], Any]) -> Any:
    """Makes an index and notes how long it took."""
    started = time.perf_counter()
    index = make()
    seconds[name] = round(time.perf_counter() - started, 3)
    return index


def measure(folder: Path, documents: int, queries: int, repeats: int, found: Report) -> None:
    """Builds the indexes, searches in turn, adds the rows."""
    data = folder / f"{documents}"
    run_process([sys.executable, TOOL, str(documents), str(max(queries, 10_000)), data])
    texts, questions = read_texts(data / "corpus.jsonl"), read_texts(data / "queries.jsonl", queries)
    collection, config = collected(texts, questions), Bm25Config()
    seconds: dict[str, float] = {}
    one, two = (Bm25(collection, config, folder=data / "index", workers=n) for n in (1, 2))
    one.search(range(1), 1)  # compiles
    Bm25(collected(texts[:100], questions[:1]), config).search(range(1), 1)
    fresh = Bm25(collection, config, folder=data / "again", workers=1)
    taken(seconds, "miner", lambda: fresh.search(range(1), 1))
    two.search(range(1), 1)
    terms = Terms(config)
    words, wanted = terms.of_texts(texts), Terms(config).of_texts(questions)
    plain = taken(seconds, "bm25s numba", lambda: build_bm25s(words))
    systems = {
        "miner": rate(lambda: one.search(range(queries), DEPTH), queries),
        "miner, two threads": rate(lambda: two.search(range(queries), DEPTH), queries),
        "bm25s numba": rate(
            lambda: plain.retrieve(wanted, k=DEPTH, n_threads=0, show_progress=False), queries
        ),
    }
    plain.retrieve(wanted[:10], k=DEPTH, n_threads=0, show_progress=False)
    if importlib.util.find_spec("tantivy"):
        other = taken(seconds, "tantivy", lambda: build_tantivy(words, data / "tantivy"))
        systems["tantivy"] = rate(lambda: search_tantivy(other, wanted), queries)
    rates = alternate(systems, repeats)
    hits = one.search(range(min(200, queries)), DEPTH)
    lists = np.zeros((min(200, queries), DEPTH))
    lists[hits.query, hits.rank - 1] = hits.score
    theirs = plain.retrieve(wanted[: len(lists)], k=DEPTH, n_threads=0, show_progress=False).scores
    add_rows(found, rates, seconds, float(np.abs(lists - theirs).max()), documents)


def add_rows(
    found: Report, rates: dict[str, list[float]], seconds: dict[str, float], difference: float, documents: int
) -> None:
    """Adds a row per system and the ratios."""
    size = f"{documents:,} documents"
    for name, values in rates.items():
        figures = {"queries_per_second": spread(values)}
        found.row(f"{size}, {name}: queries per second", figures, value=spread(values)["median"])
    for name, value in seconds.items():
        goal = INDEX if name == "miner" and documents == SIZES[1] else None
        found.row(f"{size}, {name}: seconds to index", {"seconds": value}, goal=goal, value=value)
    for name, goal in (("bm25s numba", OVER_BM25S), ("tantivy", OVER_TANTIVY)):
        if name in rates:
            figures = {"ratio": ratios(rates["miner"], rates[name])}
            note = f"largest score difference to bm25s (float32): {difference:.2g}"
            value = figures["ratio"]["median"]
            found.row(f"{size}, miner / {name}", figures, goal=goal, value=value, note=note)
        else:
            found.row(f"{size}, miner / {name}", {}, note=f"{name} is not installed")
    figures = {"ratio": ratios(rates["miner, two threads"], rates["miner"])}
    value = figures["ratio"]["median"]
    found.row(f"{size}, two threads / one", figures, goal=TWO_THREADS, value=value)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--documents", type=int, nargs="+", default=SIZES, help="fewer: a trial")
    arguments.add_argument("--queries", type=int, default=2_000, help="fewer: a trial [2000]")
    given = arguments.parse_args()
    is_large = tuple(given.documents) == SIZES and given.queries >= 2_000
    found = report("bm25_large", given, full_size=is_large)
    with scratch(given.work) as folder:
        for documents in given.documents:
            measure(folder, documents, given.queries, given.repeats, found)
    found.show()


if __name__ == "__main__":
    main()
