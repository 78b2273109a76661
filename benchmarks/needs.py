"""What do 1,000,000 to 1,000,000,000 documents need? Computed from the newest rows of the other benchmarks.

It reads the rows of bm25_large, encoding, memory, scale and its own, and writes the blocks of docs/scale.md
between `<!-- needs: … -->` and `<!-- end -->`: what was measured, and apart from it what follows. `--check`
only says whether the page is current. No target.

`--measure` makes two small stores of made-up text (`../shared/tools/gen_corpus.py`), mines them with BM25,
and adds a row for each: bytes of the store and of the index, and the processor's seconds of ingesting.
"""

from __future__ import annotations

import math
import re
import resource
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from common import HERE, Report, miner, parser, report, run_process, scratch
from needs_formulas import (
    CORES,
    DAY,
    DEPTH,
    NODE_CORES,
    NODE_MEMORY,
    RUN_PER_POSTING,
    SCENARIOS,
    Constants,
    Needs,
    Rows,
    Scenario,
    id_bytes,
    needs,
)

from miner.models.vector_cache import ENTRY
from miner.retrieval.postings import Postings
from miner.retrieval.search import CHUNK
from miner.store.database import Database

PAGE = HERE.parent / "docs" / "scale.md"
TOOL = HERE.parent.parent / "shared" / "tools" / "gen_corpus.py"
DOCUMENTS = (10**6, 10**7, 10**8, 10**9)
QUERIES = (10_000, 100_000)
WIDTH = 120


def duration(seconds: float) -> str:
    """Returns seconds for people, with two digits."""
    for size, unit in ((2 * DAY, "days"), (2 * 3600, "h"), (120, "min")):
        if seconds >= size:
            return f"{_two(seconds / {'days': DAY, 'h': 3600, 'min': 60}[unit])} {unit}"
    return f"{_two(seconds)} s" if seconds else "-"


def storage(size: float) -> str:
    """Returns bytes for people, with two digits."""
    power = min(4, max(0, int(math.log(max(size, 1), 1024))))
    return f"{_two(size / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _two(value: float) -> str:
    """Returns a number with two digits, or all before the point."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns a table whose columns after the first `left` are aligned to the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _item(text: str) -> str:
    """Returns an item of a list in lines of the page's width."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def blocks(rows: Rows) -> dict[str, str]:
    """Returns the content of each block of the page."""
    known = Constants.read(rows)
    checked = _beside(known, rows)
    return {
        "measured": _measured(rows),
        "constants": _constants(known),
        "computed": "\n\n".join(_scenario(known, scenario) for scenario in SCENARIOS),
        "range": _range(known),
        "cluster": _cluster(known),
        "check": checked,
        "missing": _missing(rows),
    }


def _measured(rows: Rows) -> str:
    """Every row that was read, with its figures, command, date and commit, and the machines."""
    figures: dict[tuple[str, str], list[str]] = {}
    of = {}
    for (benchmark, measurement, figure), (value, row) in rows.used.items():
        name = " ".join(["seconds of"] * ("stage_seconds" in figure) + [figure[-1]])
        label = name.replace("_", " ").replace("gib", "GiB")
        shown = _figure(value) if label in measurement else f"{label} {_figure(value)}"
        figures.setdefault((benchmark, measurement), []).append(shown)
        of[benchmark, measurement] = row
    lines = [
        (
            measurement,
            "; ".join(figures[benchmark, measurement]),
            f"`{row['command']}`",
            f"{row['date'][:10]}, {row['commit'][:12]}" + ("" if row["full_size"] else ", a trial"),
        )
        for (benchmark, measurement), row in of.items()
    ]
    machines = dict.fromkeys(
        f"{one['processor']}, {one['cores']} cores, {one['memory_gib']:g} GiB"
        for one in (row["machine"] for row in of.values())
    )
    table = _table(("measured", "figures", "command", "when, commit"), lines, left=4)
    return f"{table}\n\nMachine: {'; '.join(machines)}."


def _constants(known: Constants) -> str:
    lines = [
        ("indexing with BM25", f"{1e6 * known.bm25_index.slope:.2g} s per million documents"),
        ("searching with BM25", f"a query's time grows with documents ^ {known.bm25_exponent:.2f}"),
        ("two threads", f"{known.threads:.2f} x one"),
        ("exact search of vectors", f"{known.products / 1e9:.0f} billion products a second"),
        ("gathering and deciding", f"{1e6 * known.rest.slope:.2g} s per million documents, and "
         f"{1e6 * known.rest.start / (known.queries * DEPTH):.2g} s per million candidates"),
        ("reranking", f"{known.pairs:.0f} pairs a second"),
        ("ingesting", f"{1e6 * known.ingest:.2g} s of one core per million documents"),
        ("memory of `miner mine`", f"{known.peak.start:.2g} GiB, and "
         f"{known.peak.slope * 2**30:.0f} bytes per document"),
        ("memory with an encoder", f"{known.vector_peak.slope * 2**30:.0f} bytes per document"),
        ("store", f"{known.store:.0f} bytes per document, {known.candidate:.0f} per candidate"),
        ("BM25 index", f"{known.index:.0f} bytes per document ({known.postings:.0f} postings)"),
        ("vector, by its format", f"4 bytes per dimension and {ENTRY.itemsize} for its entry"),
        ("temporary, while it works", f"{known.texts_size:.0f} bytes per document for the texts, and "
         f"{RUN_PER_POSTING * known.postings:.0f} while the index is built"),
    ]  # fmt: skip
    return _table(("constant", "value"), lines, left=2)


def _memory(found: Needs) -> str:
    """Returns the memory of the process, or of that of each store."""
    each = storage(found.memory * 2**30 / found.stores)
    return each if found.stores == 1 else f"{found.stores} x {each}"


def _scenario(known: Constants, scenario: Scenario) -> str:
    steps = list(needs(known, scenario, 1, 1).seconds)
    lines = []
    for queries in QUERIES:
        for documents in DOCUMENTS:
            found = needs(known, scenario, documents, queries)
            lines.append(
                (
                    f"{documents:,}",
                    f"{queries:,}",
                    *(duration(found.seconds[step]) for step in steps),
                    f"**{duration(found.total)}**",
                    duration(found.larger),
                    f"{found.machines:,}",
                    storage(found.disk),
                    storage(found.working),
                    _memory(found),
                )
            )
    head = (
        "documents", "queries", *steps, f"all, {CORES} cores", f"all, {NODE_CORES} cores",
        f"machines of {NODE_CORES} cores for a day", "disk", "disk while it works", "memory",
    )  # fmt: skip
    return f"### Computed: {scenario.title}\n\n{_table(head, lines, left=0)}"


def _range(known: Constants) -> str:
    """What the answer depends on most."""
    documents, queries = DOCUMENTS[-1], QUERIES[-1]
    power, linear = (known.bm25_seconds(documents, queries, one) for one in (None, 1.0))
    dense = SCENARIOS[-1]
    pairs = queries * DEPTH * dense.retrievers
    read = -(-queries // CHUNK) * 4 * dense.dimension * documents
    return "\n".join(
        [
            _item(
                f"- BM25: searching {documents:,} documents for {queries:,} queries takes {duration(power)} "
                f"if a query's time goes on to grow with documents ^ {known.bm25_exponent:.2f}, and "
                f"{duration(linear)} if it grows in proportion from {known.bm25_size:,} documents on."
            ),
            _item(
                f"- Vectors that do not fit in memory are read again for every {CHUNK:,} queries: those of "
                f"{documents:,} documents with {dense.dimension} dimensions for {queries:,} queries are "
                f"{storage(read)} of reading, whose time is in none of the tables."
            ),
            _item(
                f"- A reranker is in none of the tables. That of rerank.py scores {known.pairs:.0f} pairs a "
                f"second: the {pairs:,} candidates of {queries:,} queries and {dense.retrievers} retrievers "
                f"take {duration(pairs / known.pairs)}, however many documents there are."
            ),
        ]
    )


def _cluster(known: Constants) -> str:
    lines = []
    for documents in DOCUMENTS:
        each = [needs(known, scenario, documents, QUERIES[-1]) for scenario in SCENARIOS]
        lines.append(
            (
                f"{documents:,}",
                *(f"{one.nodes:,} ({storage(one.shards)})" for one in each),
                _memory(each[-1]),
                storage(id_bytes(documents)),
                f"{each[-1].stores:,}",
            )
        )
    head = (
        "documents", *(one.title for one in SCENARIOS), "memory of the process that you start",
        "bytes of ids", "stores",
    )  # fmt: skip
    about = f"Nodes with {NODE_MEMORY} GiB of memory each, and in brackets the bytes of all shards together:"
    return f"{about}\n\n{_table(head, lines, left=0)}"


def _beside(known: Constants, rows: Rows) -> str:
    """The formulas beside every size that was mined: those that they were made from, and others."""
    lines = []
    for kind, scenario in (("BM25", SCENARIOS[0]), ("BM25 and static", SCENARIOS[1])):
        name = f"mine, {{}} documents, {kind}: peak"
        seconds, peaks = (rows.by_size("scale", name, one) for one in ("seconds", "peak_gib"))
        for documents in sorted(seconds):
            queries = rows.of("scale")[name.format(f"{documents:,}")]["settings"]["queries"]
            found = needs(known, scenario, documents, queries)
            lines.append(
                (f"{kind}, {documents:,} documents, {queries:,} queries", duration(seconds[documents]),
                 duration(found.total - found.seconds["ingest"]), storage(peaks[documents] * 2**30),
                 storage(found.memory * 2**30))
            )  # fmt: skip
    head = ("mined, store at hand", "measured time", "computed time", "measured memory", "computed memory")
    return _table(head, lines)


def _missing(rows: Rows) -> str:
    """What no row shows."""
    mined = [*rows.by_size("scale", "mine, {} documents, BM25: peak", "seconds")]
    mined += rows.by_size("scale", "mine, {} documents, BM25 and static: peak", "seconds")
    on_gpu = any(row["full_size"] for row in rows.of("gpu").values())
    lines = [
        f"- More than {max(mined):,} documents: no row has them.",
        "- GPUs: [gpu](../benchmarks/results/gpu.md) has what one GPU reaches; no table here uses it."
        if on_gpu
        else "- GPUs: `benchmarks/gpu.py` has not run on one, so that no table here has any.",
        f"- More than {CORES} cores, and more than one machine: dividing by cores is an assumption.",
        "- Networks, object stores such as S3, and disks: their time is in none of the tables.",
        f"- Other texts: made-up documents of 20 to 59 words; for the transformer encoder and the "
        f"reranker, those of tldr. Depth {DEPTH}.",
    ]
    return "\n".join(map(_item, lines))


def page(content: str, found: Mapping[str, str]) -> str:
    """Returns a page with its blocks replaced; raises SystemExit unless it has each of them once."""
    for name, block in found.items():
        mark = f"<!-- needs: {name} -->"
        pattern = re.compile(rf"{re.escape(mark)}\n.*?<!-- end -->", re.DOTALL)
        if len(pattern.findall(content)) != 1:
            raise SystemExit(f"{PAGE.name} must have the block {mark} once, with <!-- end --> after it")
        new = f"{mark}\n\n{block}\n\n<!-- end -->"
        content = pattern.sub(lambda _, new=new: new, content)  # type: ignore[misc]
    return content


# Measuring


def measure(found: Report, folder: Path, documents: int) -> None:
    """Adds the row of ingesting and mining so many documents of made-up text; a tenth as many queries."""
    made, store = folder / f"corpus-{documents}", folder / f"{documents}.duckdb"
    run_process([sys.executable, TOOL, str(documents), str(documents // 10), made])
    before = _cpu_seconds()
    run_process(miner("ingest", store, made))
    took, ingested = _cpu_seconds() - before, store.stat().st_size
    run_process(miner("mine", store, "--depth", str(DEPTH)))
    (index,) = store.with_name(f"{store.name}.bm25").iterdir()
    with Database.open(store, read_only=True) as opened:
        ((texts,),) = opened.rows("SELECT sum(strlen(text))::BIGINT FROM document_texts")
        ((candidates,),) = opened.rows("SELECT sum(len(doc_nos))::BIGINT FROM pools")
    figures = {
        "ingest_cpu_seconds": round(took, 2),
        "store_bytes": ingested,
        "mined_bytes": store.stat().st_size - ingested,
        "candidates": candidates,
        "index_bytes": sum(file.stat().st_size for file in _files(index)),
        "postings": int(Postings.mapped(index).starts[-1]),
        "text_bytes": texts + np.dtype(np.int64).itemsize * documents,
    }
    found.row(f"{documents:,} documents: ingested and mined", figures)


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def _cpu_seconds() -> float:
    """The processor's seconds of all processes so far that this one started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Writes the page, or says with --check whether it is current, or measures with --measure."""
    arguments = parser(__doc__)
    arguments.add_argument("--measure", action="store_true", help="add rows of small stores")
    arguments.add_argument("--check", action="store_true", help="only say whether the page is current")
    arguments.add_argument(
        "--documents", type=int, nargs=2, default=[50_000, 150_000], help="of --measure [%(default)s]"
    )
    given = arguments.parse_args()
    if given.measure:
        found = report("needs", given, full_size=max(given.documents) >= 150_000, least=1)
        with scratch(given.work) as folder:
            for documents in given.documents:
                measure(found, folder, documents)
        found.show()
        return 0
    before = PAGE.read_text("utf-8")
    wanted = blocks(Rows())
    after = page(before, wanted)
    if given.check:
        if before != after:
            print(f"{PAGE.relative_to(HERE.parent)} is not current: run scripts/docs", file=sys.stderr)
        return int(before != after)
    print("\n\n".join(wanted.values()))
    PAGE.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
