"""Runs: what they are called, when they are taken up again, and what is said when something changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.engine.progress import Advance
from miner.errors import ModelError, StoreError, UsageError
from miner.mining.config import MiningConfig, Rules, Selection, with_values
from miner.mining.explain import explain
from miner.mining.pipeline import config_of, decide_again, mine
from miner.store import runs
from miner.store.database import Database
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.test_oracle import encoder
from tests.tiny import tiny_bert

__all__ = ["encoder"]

CORPUS = {f"d{i:02}": f"apple pie w{i} w{i + 1} w{i % 4} number{i}" for i in range(30)}
QUERIES = {"q0": "apple pie w1", "q1": "pie w7 w3", "q2": "apple w20"}
JUDGED = [("q0", "d01"), ("q0", "d02"), ("q1", "d07"), ("q2", "d20"), ("q2", "d19")]


class Notes:
    """Remembers what was said and which work was done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.worked: list[str] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        yield lambda units: self.worked.append(name)

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with make_store(tmp_path / "s.duckdb", CORPUS, QUERIES, JUDGED) as made:
        yield made


def test_runs_are_numbered_or_named(store: Database) -> None:
    assert mine(store, MiningConfig()).name == "r1"
    assert mine(store, MiningConfig(depth=7)).name == "r2"
    assert mine(store, MiningConfig(depth=8), name="eight").name == "eight"
    assert runs.find_run(store).name == "eight"
    assert runs.find_run(store, "r1").config["depth"] == 100


def test_the_same_call_again_does_nothing(store: Database) -> None:
    first = mine(store, MiningConfig())
    notes = Notes()
    assert mine(store, MiningConfig(), progress=notes) == first
    assert notes.said == ["run r1 is already finished; there is nothing to do"]
    assert notes.worked == []


def test_another_setting_says_what_changed_and_searches_only_what_it_must(store: Database) -> None:
    mine(store, MiningConfig())
    notes = Notes()
    mine(store, MiningConfig(overlaps=False), progress=notes)
    assert notes.said == ["since run r1: overlaps True → False"]
    assert set(notes.worked) == {"gather evidence"}


def test_it_is_compared_with_the_run_that_is_most_alike(store: Database) -> None:
    mine(store, MiningConfig())
    mine(store, MiningConfig(depth=7, rules=Rules(relative_margin=0.4)))
    notes = Notes()
    mine(store, MiningConfig(overlaps=False), progress=notes)
    assert notes.said == ["since run r1: overlaps True → False"]
    notes = Notes()
    mine(store, MiningConfig(), name="r1", progress=notes)
    with pytest.raises(UsageError, match="run 'r1' exists with other settings"):
        mine(store, MiningConfig(depth=9), name="r1", progress=notes)
    assert not [note for note in notes.said if note.startswith("since")]


def test_another_judgment_says_so(store: Database) -> None:
    mine(store, MiningConfig())
    store.execute("INSERT INTO judgments VALUES ('q1', 'd08', 1, 'train', 'gold')")
    notes = Notes()
    run = mine(store, MiningConfig(), progress=notes)
    assert notes.said == ["since run r1: judgments changed"]
    assert "d08" not in {
        t["negative_id"] for t in triplets_of(store, run).to_pylist() if t["query_id"] == "q1"
    }


def test_a_taken_name_is_refused(store: Database) -> None:
    mine(store, MiningConfig(), name="mine")
    with pytest.raises(UsageError) as error:
        mine(store, MiningConfig(depth=5), name="mine")
    assert str(error.value) == (
        "run 'mine' exists with other settings: depth 100 → 5; choose another name, or remove that run: "
        f"miner runs {store.path} --remove mine"
    )


class Stop(Notes):
    """Ends the work as Ctrl-C does, when a piece of that name begins."""

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        if name == "gather evidence":
            raise KeyboardInterrupt
        yield lambda units: None


@pytest.mark.parametrize("part", ["encoder", "reranker"])
def test_a_refused_run_is_not_there_and_its_name_is_free(store: Database, tmp_path: Path, part: str) -> None:
    broken = tiny_bert(tmp_path / "broken", labels=part == "reranker")
    (broken / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(Exception, match=r".") as caught:
        mine(store, MiningConfig(**{part: str(broken)}), name="mine")  # type: ignore[arg-type]
    assert not isinstance(caught.value, UsageError)
    assert runs.runs(store) == []
    assert store.rows("SELECT * FROM models") == []
    assert store.rows("SELECT * FROM candidates") == []
    assert mine(store, MiningConfig(), name="mine").status == "done"


def test_an_interrupted_run_goes_on_or_gives_way_to_other_settings(store: Database) -> None:
    with pytest.raises(KeyboardInterrupt):
        mine(store, MiningConfig(), name="mine", progress=Stop())
    assert [run.status for run in runs.runs(store)] == ["running"]
    with pytest.raises(KeyboardInterrupt):
        mine(store, MiningConfig(), name="mine", progress=Stop())
    notes = Notes()
    run = mine(store, MiningConfig(overlaps=False), name="mine", progress=notes)
    assert notes.said == [
        "run mine was unfinished and had other settings: overlaps True → False; it is replaced"
    ]
    assert set(notes.worked) == {"gather evidence"}, "what was searched stays"
    assert runs.runs(store) == [run]


def test_deciding_again_runs_nothing_and_equals_mining(store: Database) -> None:
    first = mine(store, MiningConfig())
    other = with_values(MiningConfig(), {"relative_margin": 0.4, "negatives": 2})
    notes = Notes()
    decided = triplets_of(store, decide_again(store, first, other, progress=notes))
    assert notes.worked == []
    with make_store(store.path.with_name("fresh.duckdb"), CORPUS, QUERIES, JUDGED) as fresh:
        assert triplets_of(fresh, mine(fresh, other)).equals(decided)


def test_deciding_again_refuses_what_needs_a_search(store: Database) -> None:
    first = mine(store, MiningConfig())
    with pytest.raises(UsageError) as error:
        decide_again(store, first, replace(config_of(first), depth=5))
    assert str(error.value) == (
        "depth belongs to the search, and decide keeps the candidates that run 'r1' found; search again: "
        f"miner mine {store.path} --set depth=5"
    )
    with pytest.raises(UsageError) as error:
        decide_again(store, first, replace(config_of(first), bm25_k1=2.0, stemmer="none", overlaps=False))
    assert str(error.value) == (
        "bm25_k1, stemmer, overlaps belong to the search, and decide keeps the candidates that run 'r1' found"
        f"; search again: miner mine {store.path} --set bm25_k1=2.0 --set stemmer=none --set overlaps=false"
    )


def test_decide_names_the_run_that_it_starts_from_and_sends_the_search_to_mine(store: Database) -> None:
    mine(store, MiningConfig())
    path = str(store.path)
    store.release()
    runner = CliRunner()
    done = runner.invoke(group, ["decide", path, "--relative-margin", "0.4"])
    assert "from the evidence of run r1, the last; --run names another" in done.stderr.splitlines()
    assert (
        "from the evidence" not in runner.invoke(group, ["decide", path, "--run", "r1", "--name", "x"]).stderr
    )
    advice = (
        "It belongs to the search, and decide keeps the candidates of a run: search again with miner mine."
    )
    for option in ("--depth", "--encoder", "--reranker", "--split", "--no-bm25", "--stemmer"):
        refused = " ".join(runner.invoke(group, ["decide", path, option, "5"]).stderr.split())
        assert refused.endswith(f"No such option '{option}'. {advice}")
    refused = " ".join(runner.invoke(group, ["decide", path, "--stemmr", "5"]).stderr.split())
    assert refused.endswith(f"No such option '--stemmr'. Did you mean --stemmer? {advice}")
    refused = " ".join(runner.invoke(group, ["decide", path, "--max-rnk", "5"]).stderr.split())
    assert refused.endswith("No such option '--max-rnk'. Did you mean --set max_rank=VALUE?")


def test_the_configuration_survives_the_store(store: Database, encoder: Path) -> None:
    config = MiningConfig(
        encoder=str(encoder),
        queries=2,
        protected=("d01", "d03"),
        rules=Rules(reference_positive="best", percentile=20.0),
        selection=Selection(strategy="ambiguous", document_cap=2),
    )
    assert config_of(mine(store, config)) == config


def test_each_positive_decides_for_its_own_triplets(store: Database) -> None:
    run = mine(store, MiningConfig(rules=Rules(reference_positive="each", relative_margin=0.0)))
    rows = triplets_of(store, run).to_pylist()
    assert rows
    assert all(row["negative_score"] <= row["positive_score"] for row in rows)
    ranks = [row["rank"] for row in rows if row["query_id"] == "q0" and row["positive_id"] == "d01"]
    assert ranks == list(range(1, len(ranks) + 1))


def test_positives_best_pairs_only_the_best(store: Database) -> None:
    rules = Rules(relative_margin=None)
    every = mine(store, MiningConfig(rules=rules))
    best = decide_again(store, every, with_values(config_of(every), {"positives": "best"}))
    rows = triplets_of(store, every).to_pylist()
    for query in QUERIES:
        top = min((-r["positive_score"], r["positive_id"]) for r in rows if r["query_id"] == query)
        kept = [r["positive_id"] for r in triplets_of(store, best).to_pylist() if r["query_id"] == query]
        assert set(kept) == {top[1]}


def test_a_larger_sample_of_queries_holds_the_smaller(store: Database) -> None:
    def sampled(queries: int, seed: int) -> set[str]:
        config = MiningConfig(
            queries=queries, rules=Rules(relative_margin=None), selection=Selection(seed=seed)
        )
        return set(triplets_of(store, mine(store, config))["query_id"].to_pylist())

    assert sampled(1, 1) < sampled(2, 1) < sampled(3, 1) == set(QUERIES)


def test_the_seed_draws_the_sample_of_the_queries(store: Database) -> None:
    """The smallest hashes of the seed and the id, as `Collection` documents it."""

    def first(seed: int) -> str:
        keys = {blake2b(f"{seed} {query}".encode(), digest_size=8).digest(): query for query in QUERIES}
        return keys[min(keys)]

    drawn = {seed: first(seed) for seed in range(8)}
    assert len(set(drawn.values())) > 1
    for seed, query in drawn.items():
        run = mine(store, MiningConfig(queries=1, selection=Selection(seed=seed)))
        ids = store.rows("SELECT DISTINCT query_id FROM positives WHERE evidence = ?", [run.evidence])
        assert ids == [(query,)]


def test_deciding_again_cannot_draw_another_sample(store: Database) -> None:
    sampled = mine(store, MiningConfig(queries=2))
    other = with_values(config_of(sampled), {"seed": 7})
    with pytest.raises(UsageError, match=r"seed, which draws the sample of the queries, belongs to"):
        decide_again(store, sampled, other)
    assert decide_again(store, sampled, with_values(config_of(sampled), {"negatives": 2})).seed == 13
    every = mine(store, MiningConfig(queries=3))
    assert decide_again(store, every, with_values(config_of(every), {"seed": 7})).seed == 7


def test_the_same_settings_under_a_new_name_are_a_new_run(store: Database) -> None:
    first = mine(store, MiningConfig(), name="a")
    notes = Notes()
    second = mine(store, MiningConfig(), name="b", progress=notes)
    assert (first.name, second.name, notes.worked) == ("a", "b", [])
    assert triplets_of(store, first).equals(triplets_of(store, second))
    assert second.finished is not None
    assert second.started <= second.finished


def test_an_unknown_protected_document_is_refused(store: Database) -> None:
    with pytest.raises(UsageError, match=r"protected document 'd1' is not in the store"):
        mine(store, MiningConfig(protected=("d1",)))


def test_a_candidate_above_the_median_positive_is_a_suspected_positive(store: Database) -> None:
    mine(store, MiningConfig(rules=Rules(relative_margin=0.5)))
    rows = store.rows(
        "SELECT query_id, score, verdict::VARCHAR FROM verdicts WHERE reason = 'relative_margin'"
    )
    scores = store.rows("SELECT query_id, score FROM positive_scores")
    median = {q: float(np.median([s for i, s in scores if i == q])) for q in QUERIES}
    assert {verdict for _, _, verdict in rows} == {"dropped", "suspected"}
    assert all((verdict == "suspected") == (score > median[query]) for query, score, verdict in rows)


def test_shortfalls_are_counted_not_padded(store: Database) -> None:
    run = mine(store, MiningConfig(rules=Rules(max_score=-1.0)))
    assert triplets_of(store, run).num_rows == 0
    assert store.rows(
        "SELECT query_id, requested, selected, commonest_reason::VARCHAR FROM shortfalls ORDER BY 1"
    ) == [(query, 5, 0, "max_score") for query in QUERIES]


def test_explain_shows_every_candidate(store: Database) -> None:
    run = mine(store, MiningConfig())
    found = explain(store, "q0")
    assert found.query == "apple pie w1"
    assert found.positives["doc_id"].to_pylist() == ["d01", "d02"]
    total = store.rows("SELECT count(*) FROM verdicts WHERE query_id = 'q0' AND run = ?", [run.name])
    assert [(found.candidates.num_rows,)] == total
    slots = [s for s in found.candidates["slot"].to_pylist() if s]
    assert slots == list(range(1, len(slots) + 1))


def test_the_error_for_a_query_outside_the_run_says_where_it_is(store: Database) -> None:
    mine(store, MiningConfig())
    store.execute(
        "INSERT INTO queries SELECT 'later', text, text_key, label FROM queries WHERE query_id = 'q0'"
    )
    with pytest.raises(UsageError, match="'later' is not in run 'r1' of split train: it has no judged"):
        explain(store, "later")
    store.execute("INSERT INTO judgments VALUES ('later', 'd01', 1, 'test', 'gold')")
    with pytest.raises(UsageError, match="split train: its positives are in split test"):
        explain(store, "later")


def test_the_error_for_a_query_that_was_not_drawn_or_is_newer_says_so(store: Database) -> None:
    run = mine(store, MiningConfig(queries=1))
    drawn = {query for (query,) in store.rows("SELECT query_id FROM positives")}
    (missing, *_) = sorted({"q0", "q1"} - drawn)
    with pytest.raises(UsageError) as caught:
        explain(store, missing, run.name)
    assert caught.value.message == (
        f"query '{missing}' is not in run '{run.name}', which has a sample of 1 query of split train"
    )
    whole = mine(store, MiningConfig())
    store.execute(
        "INSERT INTO queries SELECT 'new', text, text_key, label FROM queries WHERE query_id = 'q0'"
    )
    store.execute("INSERT INTO judgments VALUES ('new', 'd01', 1, 'train', 'gold')")
    with pytest.raises(UsageError, match="its judgments in split train are newer than the run; mine again"):
        explain(store, "new", whole.name)


def test_unknown_names_are_explained(store: Database) -> None:
    mine(store, MiningConfig())
    with pytest.raises(StoreError, match=r"no query 'q9' in .* \(did you mean 'q0'\?\)|no query 'q9'"):
        explain(store, "q9")
    with pytest.raises(UsageError, match=r"no run 'r7' in .*; runs there: r1"):
        explain(store, "q0", "r7")
    with pytest.raises(
        UsageError, match=r"no query has a judged positive in split 'tran' \(did you mean 'train'\?\)"
    ):
        mine(store, MiningConfig(split="tran"))
    with pytest.raises(ModelError, match=r"no model folder at ./nowhere"):
        mine(store, MiningConfig(encoder="./nowhere"))


def test_a_store_without_runs_says_what_to_do(store: Database) -> None:
    with pytest.raises(StoreError, match=r"holds no finished run; mine first: miner mine"):
        runs.find_run(store)
