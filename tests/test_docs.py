"""What the documentation says is true: its SQL runs, its recipe is read, its Python works."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import pytest

from miner.mining.config import MiningConfig, read_recipe, with_values
from miner.mining.pipeline import decide_again, mine
from miner.schema import Reason
from miner.store.database import Database
from miner.store.select import Limits, select
from tests.stores import make_store
from tests.tiny import word_table

DOCS = Path(__file__).parent.parent / "docs"


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / file).read_text("utf-8"), re.DOTALL)


ANGLES = {"north": 0, "east": 90, "pine": 20, "oak": 10, "elm": 45, "fir": 80, "ash": 60, "yew": 70}
"""The direction of every text: a score is the cosine of the angle between two."""
TREES = list(ANGLES)[2:]

RESULTS: list[list[tuple[object, ...]]] = [
    [("r1", "judged_positive", 2), ("r2", "judged_positive", 2), ("r2", "relative_margin", 2)],
    [
        ("north", "pine", "oak", -0.045), ("east", "fir", "yew", 0.045), ("east", "fir", "ash", 0.119),
        ("north", "pine", "elm", 0.233), ("east", "fir", "elm", 0.278), ("north", "pine", "ash", 0.44),
        ("north", "pine", "yew", 0.598), ("east", "fir", "pine", 0.643), ("north", "pine", "fir", 0.766),
        ("east", "fir", "oak", 0.811),
    ],
    [("q0", "north", "oak", 0.985), ("q1", "east", "yew", 0.94)],
    [
        ("r2", "q0", 5, 4, 6, "relative_margin", "north"),
        ("r2", "q1", 5, 4, 6, "relative_margin", "east"),
    ],
    [("ash", 2, "ash"), ("elm", 2, "elm"), ("oak", 2, "oak"), ("yew", 2, "yew"), ("fir", 1, "fir"),
     ("pine", 1, "pine")],
    [("r1", "trees", 10), ("r2", "trees", 8)],
    [
        ("r1", 1, "trees", 1, 1.5, 2), ("r1", 2, "trees", 3, 3.0, 3), ("r1", 3, "trees", 4, 4.0, 4),
        ("r1", 4, "trees", 5, 5.0, 5), ("r1", 5, "trees", 6, 6.0, 6),
        *[("r2", n, "trees", n + 2, n + 2.0, n + 2) for n in (1, 2, 3, 4)],
    ],
    [("kept", "kept", 8), ("dropped", "dropped", 2), ("kept", "dropped", 1), ("kept", "suspected", 1)],
    [("q0", "pine", 0.94, 0.985)],
    [("search trees", 1, 2), ("gather evidence", 2, 12)],
]  # fmt: skip
"""What the first queries return: r1 has no rule, r2 drops what scores within 5 % of the positive."""
DISAGREEMENT: list[list[tuple[object, ...]]] = [
    [("r1", "q0", "yew", "trees", 0.667)],
    [
        ("r1", "q0", "yew", 1.0, "bm25", "trees"),
        ("r1", "q0", "oak", 0.5, "trees", "bm25"),
        ("r1", "q0", "pine", 1.0, "trees", "bm25"),
    ],
]
"""What the last two return: BM25 finds `yew` by the word, the encoder finds `oak` and `pine`."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    directions = {word: (math.cos(math.radians(a)), math.sin(math.radians(a))) for word, a in ANGLES.items()}
    encoder = {"encoder": str(word_table(folder / "trees", directions)), "bm25": False, "dtype": "fp32"}
    trees = {tree: tree for tree in TREES}
    queries = {"q0": "north", "q1": "east"}
    with make_store(folder / "s.duckdb", trees, queries, [("q0", "pine"), ("q1", "fir")]) as made:
        run = mine(made, with_values(MiningConfig(), encoder | {"relative_margin": "none"}))
        decide_again(made, run, with_values(MiningConfig(), encoder | {"relative_margin": 0.05}))
    return folder / "s.duckdb"


@pytest.fixture(scope="module")
def disagreeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disagreement")
    directions = {word: (math.cos(math.radians(a)), math.sin(math.radians(a))) for word, a in ANGLES.items()}
    settings = {"encoder": str(word_table(folder / "trees", directions)), "dtype": "fp32", "depth": 2}
    trees = {tree: tree for tree in TREES}
    with make_store(folder / "s.duckdb", trees, {"q0": "north north yew"}, [("q0", "pine")]) as made:
        mine(made, with_values(MiningConfig(), settings | {"relative_margin": "none"}))
    return folder / "s.duckdb"


QUERIES = blocks("the-store.md", "sql")


@pytest.mark.parametrize(
    ("query", "expected"), list(zip(QUERIES[: -len(DISAGREEMENT)], RESULTS, strict=True))
)
def test_the_queries_return_what_they_ask_for(
    store: Path, query: str, expected: list[tuple[object, ...]]
) -> None:
    # Only r2 has a rule.
    compare(store, query.replace("'r1'", "'r2'") if "v.reason" in query else query, expected)


@pytest.mark.parametrize(
    ("query", "expected"), list(zip(QUERIES[-len(DISAGREEMENT) :], DISAGREEMENT, strict=True))
)
def test_the_queries_find_disagreement(
    disagreeing: Path, query: str, expected: list[tuple[object, ...]]
) -> None:
    compare(disagreeing, query, expected)


def rows_of(store: Path, query: str) -> list[dict[str, object]]:
    with select(store, query, Limits()) as result:
        rows: list[dict[str, object]] = result.arrow().read_all().to_pylist()
    return rows


OF_A_RUN = re.compile(r"\b(dropped|kept|verdicts|scores|triplet_texts|reasons|shortfalls)\b")


@pytest.mark.parametrize("query", [query for query in QUERIES if OF_A_RUN.search(query)])
def test_a_run_on_another_scale_changes_nothing_about_the_others(
    store: Path, tmp_path: Path, query: str
) -> None:
    path = tmp_path / "s.duckdb"
    shutil.copy(store, path)
    (tmp_path / "large.trec").write_text(
        "".join(f"{q} Q0 {tree} 1 {1000 - 100 * i} x\n" for q in ("q0", "q1") for i, tree in enumerate(TREES))
    )
    with Database.open(path) as made:
        large = {"candidates": [str(tmp_path / "large.trec")], "bm25": False, "relative_margin": 0.5}
        mine(made, with_values(MiningConfig(), large), name="large")
    added = rows_of(path, query)
    kept = [row for row in added if row.get("run") != "large"]
    assert sorted(kept, key=str) == sorted(rows_of(store, query), key=str)


def compare(store: Path, query: str, expected: list[tuple[object, ...]]) -> None:
    """Fails unless the query's rows begin with the expected values, in any order."""
    rows = [tuple(row.values()) for row in rows_of(store, query)]
    found = [
        tuple(round(value, 3) if isinstance(value, float) else value for value in row[: len(expected[0])])
        for row in rows
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)


PAGES = [*DOCS.parent.glob("*.md"), *DOCS.rglob("*.md"), *DOCS.parent.glob("benchmarks/**/*.md")]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS.parent).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if ":" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


WRITTEN = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
WRITTEN = [page for page in WRITTEN if page.name != "cli.md"]
"""Pages that people write: the command line's has a line for an option."""
WIDTH = 122


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(DOCS.parent).as_posix())
def test_a_line_of_prose_is_short(page: Path) -> None:
    """Tables, images, addresses and what commands print may be longer."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in prose.splitlines() if not re.match(r"\s*(\||!\[)|.*https?://", line)]
    assert [line for line in lines if len(line) > WIDTH] == []


def test_every_page_of_the_docs_is_linked_from_the_readme_or_the_recipes() -> None:
    pages = [DOCS.parent / "README.md", DOCS / "recipes" / "README.md", DOCS / "python.md"]
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    }
    assert [page.name for page in DOCS.rglob("*.md") if page.resolve() not in linked] == []


def test_every_table_and_view_is_documented(store: Path) -> None:
    page = (DOCS / "the-store.md").read_text("utf-8")
    with Database.open(store, read_only=True) as opened:
        names = opened.rows(
            """SELECT table_name FROM duckdb_tables()
            UNION SELECT view_name FROM duckdb_views() WHERE NOT internal"""
        )
    assert [name for (name,) in names if name != "meta" and f"`{name}`" not in page] == []


def test_every_reason_is_documented() -> None:
    page = (DOCS / "how-mining-decides.md").read_text("utf-8")
    assert [reason for reason in Reason if f"`{reason}`" not in page] == []


def test_the_recipe_is_read(tmp_path: Path) -> None:
    (recipe,) = blocks("getting-started.md", "toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    config = with_values(MiningConfig(), read_recipe(tmp_path / "recipe.toml"))
    assert (config.depth, config.rules.relative_margin, config.selection.negatives) == (50, None, 8)
