"""Copies: found whatever was edited, stored as clusters, and never negatives of what they copy."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.main import group
from miner.curation.dedup import DedupConfig, dedup
from miner.curation.near import WordSets, near_pairs
from miner.errors import UsageError
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.retrieval.nearest import pairs_above
from miner.store import runs
from miner.store.database import Database
from miner.store.triplets import triplets as triplets_of
from miner.store.verdicts import reason_counts
from tests.stores import make_store
from tests.tiny import tiny_bert

WORDS = [
    a + b
    for a in ("ash", "bor", "cal", "den", "eph", "fen", "gor")
    for b in ("ter", "mil", "sun", "ra", "lo")
]
PERSPECTRUM = Path(__file__).resolve().parents[2] / "shared" / "data" / "perspectrum"


def edited(text: str, kind: str, rng: random.Random) -> str:
    """Returns a near copy of a text of four words or more."""
    words = text.split()
    if kind == "case":
        return rng.choice([text.upper(), text.title(), text.swapcase()])
    if kind == "punctuation":
        return rng.choice(
            [
                ", ".join(words),
                f"{text.rstrip('.')}!",
                f"'{text}'",
                re.sub(r"[^\w\s]", "", text),
                re.sub(r"[^\w\s]", " ", text),
                "-".join(words[:2]) + " " + " ".join(words[2:]),
            ]
        )
    if kind == "swap":
        position = rng.randrange(len(words) - 1)
        words[position : position + 2] = words[position : position + 2][::-1]
        return " ".join(words)
    if kind == "prefix":
        return rng.choice(["In short, ", "It is said that ", "a) "]) + text
    least = sum(map(len, words[:4])) + 4
    return text[: max(least, round(rng.uniform(0.6, 0.95) * len(text)))]


KINDS = ("case", "punctuation", "swap", "prefix", "truncation")


def planted(
    documents: dict[str, str], judged: list[tuple[str, str]], number: int, seed: int
) -> dict[str, tuple[str, str]]:
    """Returns edits of positives by new ids: the id of the query, and the text."""
    rng = random.Random(seed)
    able = [(q, d) for q, d in judged if len(documents[d].split()) >= 4]
    edits = {}
    for position in range(number):
        query, doc = able[position // len(KINDS) % len(able)]
        edits[f"copy{position}"] = query, edited(documents[doc], KINDS[position % len(KINDS)], rng)
    return edits


def sentences() -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]:
    """Returns documents of five to fourteen random words, queries of theirs, and the judgments."""
    rng = random.Random(4)
    documents = {f"d{i:03}": " ".join(rng.choices(WORDS, k=rng.randint(5, 14))) for i in range(300)}
    queries = {f"q{i:02}": " ".join(rng.sample(documents[f"d{i:03}"].split(), 3)) for i in range(60)}
    judged = [(f"q{i:02}", f"d{i:03}") for i in range(60)] + [
        (f"q{i:02}", f"d{i + 100:03}") for i in range(60)
    ]
    return documents, queries, judged


def chosen(store: Database, run: runs.StoredRun) -> set[tuple[str, str]]:
    rows = triplets_of(store, run).select(["query_id", "negative_id"]).to_pylist()
    return {(row["query_id"], row["negative_id"]) for row in rows}


def test_a_cosine_without_an_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="cosine has no effect without an encoder"):
        DedupConfig(cosine=0.8)


def test_none_of_1000_edits_of_positives_becomes_a_negative(tmp_path: Path) -> None:
    documents, queries, judged = sentences()
    edits = planted(documents, judged, 1000, seed=9)
    texts = documents | {doc: text for doc, (_, text) in edits.items()}
    config = MiningConfig(
        depth=400, overlaps=True, rules=Rules(relative_margin=None), selection=Selection(negatives=50)
    )
    copies = {(query, doc) for doc, (query, _) in edits.items()}
    with make_store(tmp_path / "s.duckdb", texts, queries, judged) as store:
        before = chosen(store, mine(store, config)) & copies
        dedup(store, DedupConfig())
        after = chosen(store, mine(store, config)) & copies
    assert len(before) > 100, "without dedup many are"
    assert not after


@pytest.mark.skipif(not PERSPECTRUM.exists(), reason="needs ../shared/data/perspectrum")
def test_none_of_1000_edits_of_real_positives_becomes_a_negative(tmp_path: Path) -> None:
    documents, queries = {}, {}
    for name, texts in (("corpus", documents), ("queries", queries)):
        for line in (PERSPECTRUM / f"{name}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            texts[row["_id"]] = " ".join([row.get("title", ""), row["text"]]).strip()
    rows = [
        line.split("\t") for line in (PERSPECTRUM / "qrels/train.tsv").read_text("utf-8").splitlines()[1:]
    ]
    judged = [(row[0], row[1]) for row in rows]
    edits = planted(documents, random.Random(3).sample(judged, len(judged)), 1000, seed=11)
    documents |= {doc: text for doc, (_, text) in edits.items()}
    config = MiningConfig(rules=Rules(relative_margin=None), selection=Selection(negatives=50))
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        dedup(store, DedupConfig())
        assert not chosen(store, mine(store, config)) & {(query, doc) for doc, (query, _) in edits.items()}


def test_clusters_join_what_is_linked(tmp_path: Path) -> None:
    documents = {
        "b": "one two three four five six seven eight nine ten",
        "a": "One two three four five six seven eight nine ten!",
        "c": "one two three four five six seven eight nine ten eleven",
        "d": "one two three four five six seven eight nine ten",
        "e": "something else entirely",
        "x": "",
        "y": "",
    }
    judgments = [("q1", "a"), ("q2", "b", "test")]
    with make_store(tmp_path / "s.duckdb", documents, {"q1": "why so?", "q2": "Why so"}, judgments) as store:
        report = dedup(store, DedupConfig())
        rows = store.rows("SELECT role, id, cluster, how, similarity FROM duplicates ORDER BY role, id")
    assert rows == [
        ("documents", "a", "a", "near", 1.0),
        ("documents", "b", "a", "exact", 1.0),
        ("documents", "c", "a", "near", pytest.approx(10 / 11)),
        ("documents", "d", "a", "exact", 1.0),
        ("queries", "q1", "q1", "near", 1.0),
        ("queries", "q2", "q1", "near", 1.0),
    ]
    assert (report.documents.texts, report.documents.clusters, report.documents.members) == (7, 1, 4)
    assert report.documents.how == {"exact": 2, "near": 2}
    assert report.crossings == (("test", "train", 1),)


def test_of_several_copies_one_is_a_negative(tmp_path: Path) -> None:
    documents = {
        "p": "apple pie with cream",
        "n1": "apple tart, warm",
        "n2": "Apple tart warm",
        "n3": "apple jam",
    }
    with make_store(tmp_path / "s.duckdb", documents, {"q": "apple"}, [("q", "p")]) as store:
        config = MiningConfig(rules=Rules(relative_margin=None))
        assert len(chosen(store, mine(store, config))) == 3
        dedup(store, DedupConfig())
        run = mine(store, config)
        assert len(chosen(store, run)) == 2
        assert reason_counts(store, run)["duplicate_of_candidate"] == 1


def test_what_is_judged_not_relevant_stays_a_negative_however_alike(tmp_path: Path) -> None:
    documents = {"p": "the film was a true joy to watch again", "n": "the film was a true joy to again watch"}
    with make_store(tmp_path / "s.duckdb", documents, {"q": "film joy"}, [("q", "p")]) as store:
        store.execute("INSERT INTO judgments VALUES ('q', 'n', 0, 'train', 'gold')")
        dedup(store, DedupConfig())
        assert chosen(store, mine(store, MiningConfig())) == {("q", "n")}


def test_dedup_again_without_copies_makes_runs_what_they_were(tmp_path: Path) -> None:
    documents, queries, judged = sentences()
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        first = mine(store, MiningConfig())
        dedup(store, DedupConfig(threshold=0.2))
        assert mine(store, MiningConfig()).evidence != first.evidence
        dedup(store, DedupConfig(threshold=1.0, punctuation=True))
        assert store.rows("SELECT count(*) FROM duplicates") == [(0,)]
        assert mine(store, MiningConfig()).evidence == first.evidence


def test_vectors_link_what_words_do_not(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    documents = {"a": "blue green", "b": "green blue red", "c": "violet nothing of this"}
    with make_store(tmp_path / "s.duckdb", documents, {"q": "blue"}, [("q", "a")]) as store:
        report = dedup(store, DedupConfig(encoder=str(model), cosine=0.1, threshold=1.0))
        again = dedup(store, DedupConfig(encoder=str(model), cosine=1.0, threshold=1.0))
    assert report.documents.how.get("vectors", 0) >= 2
    assert again.documents.members == 0


def same_letters(left: list[str], right: list[str]) -> bool:
    return "".join(left) == "".join(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Well-being is a human right", "Well being is a human right"),
        ("Well-being is a human right", "wellbeing is a human right"),
        ("It's the state's duty", "It s the state s duty"),
        ("Pro-choice laws save lives.", "pro choice laws save lives"),
    ],
)
def test_where_words_are_parted_does_not_count(left: str, right: str) -> None:
    assert near_pairs(WordSets([left, right]), 0.95).similarity.tolist() == [1.0]
    assert near_pairs(WordSets([left]), 0.95, against=WordSets(["other", right])).right.tolist() == [1]
    assert near_pairs(WordSets([left, right], punctuation=True), 0.95).similarity.tolist() == []
    assert near_pairs(WordSets(["rule 1 5", "rule 15"]), 0.95).similarity.tolist() == []


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9), max_size=14), st.floats(0.3, 1.0))
def test_near_pairs_are_those_that_comparing_all_gives(texts: list[list[str]], threshold: float) -> None:
    """All that is returned is right; what is missed is rare: nothing with equal words is."""
    words = WordSets([" ".join(text) for text in texts])
    sets = [set(text) for text in texts]
    found = near_pairs(words, threshold)
    pairs = list(zip(found.left.tolist(), found.right.tolist(), found.similarity.tolist(), strict=True))
    every = {
        (i, j): 1.0 if same_letters(texts[i], texts[j]) else len(sets[i] & sets[j]) / len(sets[i] | sets[j])
        for j in range(len(texts))
        for i in range(j)
        if sets[i]
    }
    assert all(every[i, j] == similarity >= threshold for i, j, similarity in pairs)
    assert {pair for pair, similarity in every.items() if similarity == 1.0} <= {(i, j) for i, j, _ in pairs}


def test_numbers_and_names_with_signs_are_not_the_same() -> None:
    texts = ["it costs 1.5 dollars", "it costs 15 dollars", "learn C++", "learn C#", "learn C", "learn c!"]
    found = near_pairs(WordSets(texts), 0.95)
    assert list(zip(found.left.tolist(), found.right.tolist(), strict=True)) == [(4, 5)]


def test_hardly_any_pair_at_the_threshold_is_missed() -> None:
    rng = random.Random(2)
    texts = []
    for _ in range(300):
        words = rng.sample([f"w{i}" for i in range(5000)], 20)
        texts += [" ".join(words), " ".join([*words[:19], f"new{rng.random()}"])]
    found = near_pairs(WordSets(texts), 0.9)
    assert len(found.left) >= 298
    assert (found.right - found.left == 1).all()
    assert np.allclose(found.similarity, 19 / 21)


def test_the_command_reports_clusters_and_refuses_wrong_values(tmp_path: Path) -> None:
    documents, queries, judged = sentences()
    with make_store(
        tmp_path / "s.duckdb", documents | {"z": documents["d000"].upper()}, queries, judged
    ) as store:
        path = str(store.path)
    reported = CliRunner().invoke(group, ["dedup", path])
    assert reported.exit_code == 0, reported.output
    assert "documents         301 texts, 2 of them in 1 cluster of copies" in reported.stdout
    assert "2 the same text" in reported.stdout
    assert reported.stderr.endswith(f"next: miner mine {path}\n")
    assert (
        json.loads(CliRunner().invoke(group, ["dedup", path, "--json"]).stdout)["documents"]["members"] == 2
    )
    with make_store(tmp_path / "corpus.duckdb", documents, {}, []) as store:
        corpus = str(store.path)
    alone = CliRunner().invoke(group, ["dedup", corpus])
    assert alone.stderr.endswith(f"next: miner generate {corpus} --endpoint URL --model NAME\n")
    with pytest.raises(UsageError, match="threshold must be a number above 0"):
        DedupConfig(threshold=0)


def test_pairs_above_are_the_same_in_blocks_of_any_size() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((1500, 48)).astype(np.float32)
    vectors[900:1200] = vectors[:300] * 3 + 0.3 * rng.standard_normal((300, 48)).astype(np.float32)
    vectors[1200:1210], vectors[7], vectors[8] = vectors[:10], np.nan, 0
    exact = vectors.astype(np.float64)
    with np.errstate(invalid="ignore"):
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    plain = [(int(a), int(b)) for a, b in zip(*np.nonzero(exact @ exact.T >= 0.98), strict=True) if a < b]
    whole = pairs_above(vectors, 0.98)
    assert len(plain) > 300
    assert list(zip(whole[0].tolist(), whole[1].tolist(), strict=True)) == plain
    for memory in (1, 1 << 20):
        found = pairs_above(vectors, 0.98, memory=memory)
        assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))
    same = pairs_above(vectors, 1.0)
    assert same[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 9]  # 7 and 8 have no direction
