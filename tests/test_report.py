"""The HTML report: well-formed, safe, complete; its figures are those of SQL, its commands run.

A real browser shows it without an error, a request, or sideways scrolling at 360 pixels.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import miner
from miner.auditing.audit import audit
from miner.auditing.calibrate import calibrate
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.auditing.label_parts import rates_by_part, ratio_estimate
from miner.auditing.labels import SampleConfig, draw_sample, keep_labels
from miner.cli.main import group
from miner.errors import InputError, UsageError
from miner.html_report import write_report
from miner.html_report.charts import ticks
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import decide_again, mine
from miner.store.audits import frontier_of_run
from miner.store.database import Database
from miner.store.runs import find_run
from tests import export_store
from tests.stores import make_store, new_store
from tests.test_labels import collection, fill

SECTIONS = (
    "summary", "data", "candidates", "verdicts", "scores", "false-negatives", "frontier", "coverage",
    "suspects", "hardest", "copies", "training", "certificate", "commands",
)  # fmt: skip
VOID = {"meta", "br", "rect", "line", "circle", "path"}
DEEP = MiningConfig(encoder=("bundled",), depth=30, selection=Selection(negatives=4))


class Page(HTMLParser):
    """A parsed page: every element with its attributes, the text of every table by its caption."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            assert self._caption, "a table without a caption"
            assert len({len(row) for row in self._rows}) == 1, self._caption
            self.tables.setdefault(self._caption, self._rows[1:])

    def handle_data(self, data: str) -> None:
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]

    def numbers(self, caption: str, column: int) -> list[int]:
        return [int(row[column].replace(",", "")) for row in self.tables[caption]]


def page_of(store: Database, out: Path, run: str | None = None, against: str | None = None) -> Page:
    beside = None if against is None else find_run(store, against)
    write_report(store, out, find_run(store, run), beside)
    return Page(out.read_text("utf-8"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Yields a store with two runs, one of which has all that can be measured."""
    folder = tmp_path_factory.mktemp("report")
    documents, queries, judged, truth = collection()
    judged += [(query, doc) for query, doc in sorted(truth) if doc.endswith("-1") and int(query[1:]) % 2]
    documents["copy"] = documents["x01"]
    with make_store(folder / "s.duckdb", documents, queries, judged) as store:
        run = mine(store, DEEP, name="mined")
        decide_again(store, run, with_rules(percentile=5), name="strict")
        draw_sample(store, run, SampleConfig(60), folder / "sample.csv")
        keep_labels(store, run, fill(folder / "sample.csv", truth))
        audit(store, run, AuditConfig())
        calibrate(store, run, None, CalibrationConfig(repeats=2))
        miner.dedup(store)
        texts = {"d": documents["x02"]}, {"q": queries["q00"]}
        make_store(folder / "other.duckdb", *texts, [("q", "d", "test")]).close()
        miner.contamination(store, folder / "other.duckdb")
        yield store


def with_rules(**rules: Any) -> MiningConfig:
    return MiningConfig(encoder=("bundled",), depth=30, selection=DEEP.selection, rules=Rules(**rules))


@pytest.fixture(scope="module")
def page(measured: Database, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(measured, tmp_path_factory.mktemp("page") / "r.html", "mined", "strict")


def test_the_page_is_well_formed_and_accessible(page: Page) -> None:
    ids, names = page.values("id"), [name for name, _ in page.elements]
    assert len(ids) == len(set(ids))
    for references in (page.values("aria-labelledby"), [one[1:] for one in page.values("href")]):
        assert {part for one in references for part in one.split()} <= set(ids)
    assert ("html", {"lang": "en"}) in page.elements
    assert names.count("h1") == names.count("main") == names.count("title") - names.count("desc") == 1
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    drawn = [attributes for name, attributes in page.elements if name == "svg" and "role" in attributes]
    assert len(drawn) > 8
    assert all(one["role"] == "img" and one["aria-labelledby"] for one in drawn)
    heads = [attributes.get("scope") for name, attributes in page.elements if name == "th"]
    assert set(heads) == {"col", "row"}


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert not {name for name, _ in page.elements} & {"script", "link", "img", "iframe", "object", "base"}
    assert all(one.startswith("#") for one in page.values("href"))
    assert not [name for _, one in page.elements for name in one if name.startswith("on") or name == "src"]
    assert set(re.findall(r"url\(([^)]*)\)", page.text)) == {"#hatched", "#dotted"}
    assert "@import" not in page.text
    assert "default-src 'none'" in " ".join(page.values("content"))
    assert len(page.text) < 3_000_000


def test_every_section_is_there(page: Page) -> None:
    sections = [one["id"] for name, one in page.elements if name == "section"]
    assert sections == ["summary", "against", *SECTIONS[1:]]
    assert "not measured" in page.text  # no bench, no training
    assert "by fused rank" in page.text
    assert "Scores of suspected and positive" in page.tables
    assert len(re.findall('class="example"', page.text)) == 20


def test_the_figures_are_those_of_sql(measured: Database, page: Page) -> None:
    run = "mined"
    verdicts = measured.rows(
        """SELECT count(*) FROM verdicts WHERE run = ? GROUP BY verdict, reason, slot IS NULL
        ORDER BY count(*) DESC""",
        [run],
    )
    assert page.numbers("Candidates by verdict and reason", 2) == [number for (number,) in verdicts]
    found = measured.rows(
        """SELECT scorer, count(rank), count(*) FILTER (others = 1 AND rank IS NOT NULL), count(score)
        FROM (SELECT *, count(rank) OVER (PARTITION BY query_id, doc_id) AS others FROM scores WHERE run = ?)
        GROUP BY scorer ORDER BY scorer""",
        [run],
    )
    shown = page.tables["Scorers: the candidates that each found and scored"]
    assert [(r[0], *(int(r[i].replace(",", "")) for i in (2, 3, 5))) for r in shown] == found
    groups = page.numbers("Candidates by the retrievers that found them", 1)
    ((together,),) = measured.rows(
        """SELECT count(*) FROM (SELECT 1 FROM scores WHERE run = ? AND rank IS NOT NULL
        GROUP BY query_id, doc_id HAVING count(*) = 2)""",
        [run],
    )
    assert together in groups
    assert sum(groups) == sum(number for (number,) in verdicts)
    ((selected, kept, dropped, positives),) = measured.rows(
        """SELECT count(slot), count(*) FILTER (verdict = 'kept' AND slot IS NULL),
            count(*) FILTER (reason = 'relative_margin'),
            (SELECT count(*) FROM positive_scores WHERE run = $run AND scorer = 'bundled')
        FROM verdicts WHERE run = $run""",
        {"run": run},
    )
    bins = [sum(page.numbers("Positives and candidates by score", column)) for column in (1, 2, 3, 4)]
    assert bins == [positives, selected, kept, dropped]
    by_number = measured.rows(
        """SELECT count(*) FROM (SELECT count(slot) AS n FROM verdicts WHERE run = ? GROUP BY query_id)
        GROUP BY n ORDER BY n DESC""",
        [run],
    )
    assert page.numbers("Queries by number of negatives", 1) == [number for (number,) in by_number]
    assert page.numbers("Copies among the texts", 2)[0] == 2


def test_suspects_and_negatives_are_the_extreme_ones(measured: Database, page: Page) -> None:
    best = measured.rows(
        """WITH gap AS (
            SELECT v.query_id, v.score - max(p.score) AS gap FROM verdicts v
            JOIN positive_scores p USING (run, query_id) WHERE v.run = 'mined' AND p.scorer = 'bundled'
                AND v.verdict = 'suspected' GROUP BY v.query_id, v.doc_id, v.score)
        SELECT query_id FROM gap GROUP BY query_id ORDER BY max(gap) DESC LIMIT 10"""
    )
    section = page.text.split('id="suspects"')[1].split("</section>")[0]
    assert re.findall(r"Query <bdi><code>(q\d+)<", section) == [query for (query,) in best]
    closest = measured.rows(
        """SELECT query_id FROM triplets t JOIN runs USING (run_id) WHERE name = 'mined'
        GROUP BY query_id ORDER BY max(negative_score) - min(positive_score) DESC LIMIT 1"""
    )
    section = page.text.split('id="hardest"')[1].split("</section>")[0]
    assert re.findall(r"Query <bdi><code>(q\d+)<", section)[0] == closest[0][0]


def test_two_runs_are_set_side_by_side(measured: Database, page: Page) -> None:
    changed = measured.rows(
        """WITH a AS (SELECT query_id, positive_id, negative_id FROM triplet_texts WHERE run = 'strict'),
        b AS (SELECT query_id, positive_id, negative_id FROM triplet_texts WHERE run = 'mined')
        SELECT (SELECT count(*) FROM (FROM a INTERSECT FROM b)),
            (SELECT count(*) FROM (FROM a EXCEPT FROM b)),
            (SELECT count(*) FROM (FROM b EXCEPT FROM a))"""
    )
    assert tuple(map(int, page.tables["Overlap of the two runs"][0][1:])) == changed[0]
    rows = {row[0]: row[1:] for row in page.tables["The two runs side by side"]}
    assert rows["hidden-positive rate"][0] == "not measured"
    assert "%" in rows["hidden-positive rate"][1]
    assert "percentile 5.0 → none" in page.text


def test_the_frontier_is_that_of_the_last_calibration(measured: Database, page: Page) -> None:
    run = find_run(measured, "mined")
    before = frontier_of_run(measured, run)
    found = calibrate(measured, run, None, CalibrationConfig(repeats=2))  # the same again
    assert frontier_of_run(measured, run) == before
    caption = "Settings of the rules: those that no other beats, the chosen one and this run's own"
    rows = {row[1].split(" (")[0]: row for row in page.tables[caption]}
    assert {found.name_of(one) for one in (*found.frontier(), found.chosen, found.own)} == set(rows)
    chosen = rows[found.name_of(found.chosen)]
    assert "(chosen)" in chosen[1]
    assert chosen[2] == f"{100 * found.chosen.overall.rate:.2f}\u00a0%"
    assert frontier_of_run(measured, find_run(measured, "strict")) is None


def test_the_same_store_gives_the_same_bytes(measured: Database, tmp_path: Path) -> None:
    first, again = (page_of(measured, tmp_path / name).text for name in ("a.html", "b.html"))
    assert first == again


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"percentile": 5.0, "min_score": 0.1, "reference_positive": "median"},
        {"relative_margin": None, "quota": ("bm25=2",), "seed": 5, "strategy": "random"},
        {"relative_margin": -0.1, "protected": ("x01", "x02"), "stopwords": "none"},
    ],
)
def test_the_command_of_the_page_makes_the_same_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    documents, queries, judged, _ = collection()
    make_store(Path("my store.duckdb"), documents, queries, judged).close()
    miner.mine("my store.duckdb", name="the one", depth=20, **settings)
    report = miner.report("my store.duckdb", "r.html")
    assert report.run == "the one"
    Path("FILE").write_text("x01\nx02\n", "utf-8")
    (command,) = re.findall(r"<code>miner (mine [^<]*)</code>", Path("r.html").read_text("utf-8"))
    words = shlex.split(unescape(command))
    again = CliRunner().invoke(group, words)
    assert again.exit_code == 0, again.output
    assert "is already finished" in again.output


def test_what_is_missing_comes_with_the_command_that_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    documents, queries, judged, truth = collection()
    judged += [(query, doc) for query, doc in sorted(truth) if doc.endswith("-1")]
    with make_store(Path("s.duckdb"), documents, queries, judged) as store:
        mine(store, MiningConfig(selection=Selection(negatives=4)), name="my run")
    shown = CliRunner().invoke(group, ["report", "s.duckdb", "r.html"])
    assert shown.exit_code == 0, shown.output
    assert "not measured: false-negative rate, hidden-positive rate, frontier" in shown.output
    summary = Path("r.html").read_text("utf-8").split('id="summary"')[1].split("</section>")[0]
    commands = [unescape(one) for one in re.findall(r"<code>miner ([^<]*)</code>", summary)]
    assert [command.split()[0] for command in commands] == ["audit", "audit", "calibrate", "bench", "train"]
    for command in commands[:3]:
        done = CliRunner().invoke(group, shlex.split(command))
        assert done.exit_code == 0, done.output
    with Database.open("s.duckdb") as store:
        keep_labels(store, find_run(store), fill(Path("sample.csv"), truth))
    again = miner.report("s.duckdb", "r.html")
    assert again.not_measured == ("bench", "training")


HOSTILE = (
    "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>",
    "\u202eright to left\u202c \x1b[31mred\x00 &amp; `code` **bold**",
    "שלום עולם " * 3 + "]]> <!-- --!>",
)


def test_texts_and_names_stay_texts(tmp_path: Path) -> None:
    words = "alder birch cedar elm fir oak"
    documents = {f"<b>{n}</b>": f"{words} {text} {n}" for n in range(4) for text in HOSTILE}
    documents |= {f"{n}": f"{words} {HOSTILE[n % 3]} {n} " + "x" * 200_000 for n in range(9)}
    queries = {f"q\"'><i>{n}": f"{words} {text}" for n, text in enumerate(HOSTILE)}
    judged = [(query, f"{n}") for n, query in enumerate(queries)]
    with make_store(tmp_path / "a<b>&.duckdb", documents, queries, judged) as store:
        mine(store, MiningConfig(rules=Rules(relative_margin=None)), name="<u>&lt;'`**")
        decide_again(store, find_run(store), MiningConfig(), name="strict")
        page = page_of(store, tmp_path / "r.html", "<u>&lt;'`**", "strict")
        other = page_of(store, tmp_path / "r.html", "strict")
    for one in (page, other):
        assert not {name for name, _ in one.elements} & {"script", "img", "b", "i", "u"}
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", one.text)
        assert "\\x1b[31mred" in one.text
        assert "alert(1)&lt;/script&gt;" in one.text
        assert "characters in all" in one.text
        assert 'dir="auto"' in one.text
        assert len(one.text) < 300_000


def test_a_file_is_replaced_and_nothing_else_is(measured: Database, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    out.write_text("old", "utf-8")
    run = find_run(measured, "mined")
    written = write_report(measured, out, run)
    assert written.size == out.stat().st_size
    assert list(tmp_path.iterdir()) == [out]
    for target in (tmp_path, measured.path):
        with pytest.raises(UsageError):
            write_report(measured, target, run)
    with pytest.raises(UsageError, match="with itself"):
        write_report(measured, out, run, run)
    with pytest.raises(UsageError, match="no run 'none'"):
        miner.report(measured, out, against="none")


def test_a_run_of_another_version_has_a_page_too(tmp_path: Path) -> None:
    with new_store(tmp_path / "s.duckdb") as store:
        export_store.fill(store)
        page = page_of(store, tmp_path / "r.html")
    assert "by another version of miner" in page.text
    assert "No candidate and no positive has a finite score" in page.text


def test_a_trained_model_has_its_curves(measured: Database, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "base": "scratch",
        "epochs": 2,
        "batch_size": 8,
        "evaluations": 3,
        "dimension": 16,
    }
    miner.train(measured, tmp_path / "model", run="mined", **settings)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text("utf-8"))
    report = miner.report(measured, tmp_path / "r.html", "mined", training=[tmp_path / "model"])
    assert report.not_measured == ("bench",)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    losses = [float(row[2]) for row in page.tables["Loss of model"]]
    assert len(losses) > 2
    assert losses == pytest.approx([loss for _, loss in metrics["losses"]], abs=1e-4)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="neither a trained model"):
        miner.report(measured, tmp_path / "r.html", training=[tmp_path / "other"])
    for name in ("metrics.json", "results.json"):
        (tmp_path / "other" / name).write_text(json.dumps({"what": "an encoder"}), "utf-8")
        with pytest.raises(InputError, match=name):
            miner.report(measured, tmp_path / "r.html", training=[tmp_path / "other"])


def test_the_rates_of_parts_are_true_if_everything_is_labelled(tmp_path: Path) -> None:
    documents, queries, judged, truth = collection()
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        run = mine(store, MiningConfig(selection=Selection(negatives=4)))
        draw_sample(store, run, SampleConfig(1000), tmp_path / "all.csv")
        keep_labels(store, run, fill(tmp_path / "all.csv", truth))
        parts = rates_by_part(store, run)
        rows = store.rows("SELECT query_id, doc_id, fused_rank FROM verdicts WHERE slot IS NOT NULL")
    for one in parts:
        if one.kind == "rank":
            low, _, high = one.part.removeprefix("from ").partition("-")
            own = [(q, d) in truth for q, d, rank in rows if int(low) <= rank <= int(high or 10**6)]
            assert (one.rate, one.low, one.high) == pytest.approx([np.mean(own)] * 3)
            assert one.labels == len(own)
    assert sum(one.labels for one in parts if one.kind == "rank") == len(rows)


def test_the_intervals_of_parts_contain_the_truth() -> None:
    rng = np.random.default_rng(3)
    population = np.array([4000, 800, 200])
    stratum = np.repeat(np.arange(3), population)
    relevant = rng.random(len(stratum)) < np.array([0.01, 0.1, 0.5])[stratum]
    inside = rng.random(len(stratum)) < np.array([0.5, 0.3, 0.6])[stratum]
    truth = relevant[inside].mean()
    hits = 0
    for _ in range(300):
        drawn = np.concatenate(
            [rng.choice(np.flatnonzero(stratum == one), 60, replace=False) for one in range(3)]
        )
        values = inside[drawn], relevant[drawn].astype(np.float64), stratum[drawn], population
        rate, low, high = ratio_estimate(*values)
        assert low <= rate <= high
        hits += low <= truth <= high
    assert hits >= 0.93 * 300


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.123, 0.127), (-11.2, 9.7), (3, 3), (0, 1e9), (-1e-7, 1e-7)]
)
def test_ticks_are_few_and_around_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12 * abs(high)
    assert 1 <= len(found) <= 8


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(measured: Database, tmp_path: Path, scheme: Any) -> None:
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    out = tmp_path / "r.html"
    write_report(measured, out, find_run(measured, "mined"), find_run(measured, "strict"))
    unsafe = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=unsafe)
        view = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme).new_page()
        messages: list[str] = []
        requests: list[str] = []
        view.on("console", lambda message: messages.append(message.text))
        view.on("pageerror", lambda error: messages.append(str(error)))
        view.on("request", lambda request: requests.append(request.url))
        view.goto(out.as_uri())
        assert requests == [out.as_uri()]
        # Nothing is wider than the page, but for tables, which scroll by themselves.
        assert view.evaluate("document.documentElement.scrollWidth") == 360
        over = view.evaluate(
            """[...document.querySelectorAll('body *')].filter(
                one => !one.closest('.scroll, details, .patterns') && one.getBoundingClientRect().right > 361
            ).map(one => one.outerHTML.slice(0, 120))"""
        )
        assert over == []
        ink, paper = view.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert (luminance(ink) > luminance(paper)) == (scheme == "dark")
        assert contrast(ink, paper) >= 7
        for name in ("a", ".quiet", ".chart .value"):
            paint = "fill" if "chart" in name else "color"
            color = view.eval_on_selector(name, f"one => getComputedStyle(one).{paint}")
            assert contrast(color, paper) >= 4.5, name
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.className") == "skip"
        view.locator("summary").first.focus()
        view.keyboard.press("Enter")
        assert view.locator("details[open]").count() == 1
        view.emulate_media(media="print", color_scheme=scheme)
        assert luminance(view.evaluate("getComputedStyle(document.body).backgroundColor")) == 1
        assert not view.locator("nav").is_visible()
        assert view.locator("details table").first.is_visible()
        assert view.pdf(format="A4")[:4] == b"%PDF"
        assert messages == []
        browser.close()


SCREENSHOTS = os.environ.get("MINER_SCREENSHOTS")


@pytest.mark.skipif(not (CHROMIUM and SCREENSHOTS), reason="MINER_SCREENSHOTS names no folder for them")
def test_the_screenshot_of_the_docs_is_made(tmp_path: Path) -> None:
    """With MINER_SCREENSHOTS=docs/charts it writes report.png: a run on functions of the standard library."""
    from playwright.sync_api import sync_playwright

    modules = ["email", "calendar", "textwrap", "contextlib", "zipfile", "mailbox", "pathlib", "statistics"]
    miner.ingest(tmp_path / "my.duckdb", [f"python:{module}" for module in modules])
    with miner.Store.open(tmp_path / "my.duckdb") as store:
        run = store.mine(encoder="bundled", depth=30)
        run.audit()
        store.report(tmp_path / "r.html", run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        view = browser.new_page(viewport={"width": 860, "height": 600})
        view.goto((tmp_path / "r.html").as_uri())
        # The head, the summary and the scores alone.
        view.add_style_tag(
            content="section:not(#summary, #scores), nav, footer, #summary :is(ul, .label) {display: none}"
        )
        view.screenshot(path=Path(str(SCREENSHOTS)) / "report.png", full_page=True)
        browser.close()


def luminance(color: str) -> float:
    values = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in values]
    return round(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2], 6)


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
