"""Exports: manifest and card, what is left out, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from miner.cli import export as cli
from miner.engine.files import locked
from miner.errors import MinerError, StoreError, UsageError
from miner.export import FORMATS, ExportConfig, card, export_run
from miner.export.card import MEANINGS
from miner.export.writers import WRITERS
from miner.schema import Reason
from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.triplets import TRIPLET_TEXTS
from tests.export_store import TRIPLETS, fill, made, make_run
from tests.stores import new_store
from tests.train_support import Notes


@pytest.fixture
def store(tmp_path: Path) -> Database:
    opened = new_store(tmp_path / "my.duckdb")
    fill(opened)
    return opened


def test_manifest(store: Database, tmp_path: Path) -> None:
    made(store, tmp_path / "out", scores=True)
    data = (tmp_path / "out/data/train.jsonl").read_bytes()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    written_by = manifest.pop("written_by")
    assert set(written_by) == {"hardneg-miner", "pyarrow"}
    assert set(manifest.pop("certificate")) == {
        "audit", "changed_since", "false_negative_rate", "judges", "copies", "contamination", "judgments",
        "commands",
    }  # fmt: skip
    assert manifest == {
        "format": "triplet",
        "file_type": "jsonl",
        "scores": True,
        "split": "train",
        "counts": {
            "mined_queries": 3, "queries": 2, "positives": 3, "negatives": 3, "triplets": 5, "rows": 5,
        },
        "left_out": [{"what": "queries", "number": 1, "why": "without negatives"}],
        "run": {
            "name": "first",
            "run_id": "id-first",
            "evidence": "ev",
            "split": "train",
            "seed": 7,
            "negatives": 2,
            "finished": "2026-01-02 03:05:00",
            "config": {"negatives": 2, "rules": {"relative_margin": 0.05}, "index": "Flat|x"},
            "inputs": {**content_hashes(store, "train"), "encoder": "enc1"},
            "versions": {"duckdb": "2.0"},
        },
        "scorers": [{"scorer": "bundled", "kind": "dense", "name": "bundled", "fingerprint": "enc1"}],
        "decided_by": "bundled",
        "candidates": {"selected": 3, "relative_margin": 1},
        "shortfalls": {"queries": 2, "reasons": {"no_candidates": 1, "relative_margin": 1}},
        "files": [
            {"path": "data/train.jsonl", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        ],
    }  # fmt: skip


def front_matter(out: Path) -> dict[str, object]:
    head = re.match(r"---\n(.*?)\n---\n", (out / "README.md").read_text(encoding="utf-8"), re.S)
    assert head is not None
    loaded: dict[str, object] = yaml.safe_load(head[1])
    return loaded


def test_card_front_matter(store: Database, tmp_path: Path) -> None:
    made(store, tmp_path / "out", scores=True)
    found = front_matter(tmp_path / "out")
    name = found["configs"][0]["config_name"]
    assert re.fullmatch("rows-[0-9a-f]{12}", name)
    assert found == {
        "pretty_name": "Hard negatives: first",
        "tags": ["sentence-transformers", "hard-negatives"],
        "task_categories": ["sentence-similarity"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": name, "data_files": [{"split": "train", "path": "data/train.jsonl"}]}],
        "dataset_info": {
            "config_name": name,
            "features": [
                {"name": "anchor", "dtype": "string"},
                {"name": "positive", "dtype": "string"},
                {"name": "negative", "dtype": "string"},
                {"name": "scores", "list": "float64"},
            ],
        },
    }


def test_card_front_matter_of_nested_passages_is_what_datasets_writes(
    store: Database, tmp_path: Path
) -> None:
    from datasets import Features

    for name in ("tevatron", "dpr", "labeled-list"):
        report = made(store, tmp_path / name, format=name, scores=True)
        features = Features.from_arrow_schema(
            FORMATS[name].rows(TRIPLET_TEXTS.empty_table(), _shape()).schema
        )
        head = front_matter(tmp_path / name)
        assert head["dataset_info"]["features"] == features._to_yaml_list(), report.data


def _shape() -> object:
    from miner.export.formats import Shape

    return Shape(scores=True, negatives=2, run="first")


def test_card_says_how_it_was_mined(store: Database, tmp_path: Path) -> None:
    made(store, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "5 rows in the format `triplet`, from 2 queries of the split `train` with 3 positives" in card
    assert '  "positive": "Cats They purr, mostly.",' in card
    assert "| `relative_margin` | 1 | scored within the relative margin of the positive |" in card
    assert "| rules.relative_margin | `0.05` |" in card
    assert '| index | `"Flat\\|x"` |' in card
    assert "- encoder: `bundled`" in card
    assert 'train = load_dataset("PATH", split="train")' in card
    assert "loss=MultipleNegativesRankingLoss(model)).train()" in card


def test_card_explains_every_reason() -> None:
    assert set(MEANINGS) == {"selected", "kept", *Reason}


def test_split_names_that_datasets_refuses_are_changed(tmp_path: Path) -> None:
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store, run=make_run("r", split="fold-1 (a)"))
        report = made(store, tmp_path / "out")
    assert report.data == tmp_path / "out/data/fold_1__a_.jsonl"
    assert json.loads((tmp_path / "out/manifest.json").read_text())["run"]["split"] == "fold-1 (a)"


def refusal(store: Database, out: Path, **config: object) -> str:
    with pytest.raises(MinerError) as caught:
        made(store, out, **config)
    assert not list(out.parent.glob(f".{out.name}*"))
    return str(caught.value)


REFUSED = [
    (
        {"format": "triplets"},
        "unknown format 'triplets' (did you mean 'triplet'?); one of triplet, n-tuple, labeled-pair, "
        "labeled-list, ids, reranking, flagembedding, tevatron, dpr",
    ),
    (
        {"file_type": "cvs"},
        "unknown file type 'cvs' (did you mean 'csv'?); one of jsonl, json, csv, parquet, datasets",
    ),
    (
        {"format": "labeled-list", "file_type": "csv"},
        "csv cannot contain the lists in documents and labels of the format labeled-list; "
        "choose --file-type jsonl, parquet or datasets",
    ),
    (
        {"scores": True, "file_type": "csv"},
        "csv cannot contain the lists in scores of the format triplet; "
        "choose --file-type jsonl, parquet or datasets",
    ),
    (
        {"format": "dpr", "file_type": "csv"},
        "the format dpr cannot be written as csv; choose --file-type json",
    ),
    (
        {"format": "tevatron", "file_type": "parquet"},
        "the format tevatron cannot be written as parquet; choose --file-type jsonl",
    ),
    (
        {"negatives_per_row": 2},
        "negatives_per_row is for the format n-tuple or ids, not triplet; leave it out",
    ),
    (
        {"labels": "grade"},
        "labels is for the format labeled-pair, labeled-list or ids, not triplet; leave it out",
    ),
    (
        {"format": "labeled-list", "labels": "grade", "scores": True},
        "scores replace the labels, so labels has no effect; leave one out",
    ),
    ({"include_positives": True}, "include_positives is for the format reranking, not triplet; leave it out"),
    ({"more_runs": ("other",)}, "no run 'other' in STORE; runs there: first"),
    (
        {"more_runs": ("first",)},
        "more_runs is for the format ids, not triplet; leave it out",
    ),
    (
        {"format": "ids", "more_runs": ("first",)},
        "the runs 'first' and 'first' are both of the split train; name one run for each split",
    ),
    (
        {"format": "ids", "scores": True},
        "--scores has no effect on the format ids; leave it out",
    ),
    (
        {"language": ("English",)},
        "language is 'English'; give a code of the Hub, such as en or zh-Hant",
    ),
    (
        {"labels": "grades"},
        "labels must be one of binary, grade, got 'grades' (did you mean 'grade'?)",
    ),
    (
        {"format": "n-tuple", "negatives_per_row": 3},
        "negatives_per_row must be between 1 and 2, got 3; run 'first' was mined with 2 negatives per query",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_settings_that_do_not_fit(
    store: Database, tmp_path: Path, config: dict[str, object], message: str
) -> None:
    assert refusal(store, tmp_path / "out", **config) == message.replace("STORE", str(store.path))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError):
        made(store, tmp_path / "out", **config)


def test_unknown_run(store: Database, tmp_path: Path) -> None:
    assert refusal(store, tmp_path / "out", run="frist") == (
        f"no run 'frist' in {store.path} (did you mean 'first'?); runs there: first"
    )


def test_run_without_triplets(tmp_path: Path) -> None:
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store)
        store.execute("DELETE FROM selected")
        assert refusal(store, tmp_path / "out") == (
            f"run 'first' has no triplets; see why: miner sql {store.path} \"SELECT * FROM reasons\""
        )


def test_no_pair_with_enough_negatives(tmp_path: Path) -> None:
    with new_store(tmp_path / "s.duckdb") as store:
        fill(store, TRIPLETS[4:])  # type: ignore[arg-type]
        assert refusal(store, tmp_path / "out", format="n-tuple") == (
            "no query of run 'first' has 2 negatives; "
            "ask for fewer with --set negatives_per_row=N, or use --format triplet"
        )
    assert not (tmp_path / "out").exists()


def test_corpus_that_lost_a_document(store: Database, tmp_path: Path) -> None:
    store.execute("DELETE FROM documents WHERE doc_id = 'd4'")
    with pytest.raises(StoreError, match=r"has triplets whose query or document is not in .*: mine again"):
        made(store, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir() if "duckdb" not in p.name) == []


def test_folder_in_use(store: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    assert refusal(store, out) == f"the folder {out} is not empty; name a new folder, or add --force"
    assert refusal(store, out, force=True) == (
        f"{out} is not an earlier export (it has no manifest.json of one); --force replaces only exports"
    )
    assert refusal(store, out / "precious.txt") == (
        f"{out / 'precious.txt'} is a file, not a folder; name a new folder"
    )
    assert [p.name for p in out.iterdir()] == ["precious.txt"]


def test_force_replaces_an_earlier_export_whole(store: Database, tmp_path: Path) -> None:
    made(store, tmp_path / "out")
    made(store, tmp_path / "out", format="labeled-pair", file_type="csv", force=True)
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*"))
    assert files == ["README.md", "data", "data/train.csv", "manifest.json"]
    assert sorted(p.name for p in tmp_path.iterdir() if "duckdb" not in p.name) == ["out"]


def test_empty_and_nested_folders_are_taken(store: Database, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert made(store, tmp_path / "empty").data.is_file()
    assert made(store, tmp_path / "a/b/c").data.is_file()


def test_failure_while_writing_keeps_the_earlier_export(
    store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    made(store, out)
    before = (out / "manifest.json").read_bytes()
    monkeypatch.setattr(card, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(store, out, scores=True, force=True)
    assert (out / "manifest.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if "duckdb" not in p.name) == ["out"]


def test_the_same_export_is_not_made_again(store: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = made(store, out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    notes = Notes()
    assert export_run(store, out, ExportConfig(), notes) == first
    assert notes.said == [f"{out} already contains this export"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    (out / "data/train.jsonl").write_text("changed")
    assert refusal(store, out) == f"the folder {out} is not empty; name a new folder, or add --force"
    assert export_run(store, out, ExportConfig(force=True)) == first
    assert export_run(store, out, ExportConfig()) == first


def test_a_manifest_of_something_else_is_not_an_export(store: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for manifest in ("{}", '{"written_by": "npm"}', "[]", "{", '{"name": "a browser extension"}'):
        (out / "manifest.json").write_text(manifest)
        assert "is not an earlier export" in refusal(store, out, force=True)


def test_of_two_exports_to_one_folder_the_second_is_refused(store: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out), pytest.raises(MinerError) as caught:
        made(store, out)
    assert (
        str(caught.value) == f"another process is writing {out}; wait until it ends, or name another target"
    )


def test_cli_writes_a_summary_for_people(store: Database, tmp_path: Path) -> None:
    store.close()
    out = tmp_path / "out"
    result = CliRunner().invoke(cli.command, [str(store.path), str(out), "--format", "n-tuple"])
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr == (
        f"run 'first': 2 rows from 2 queries (the run has 5 triplets) in {out / 'data/train.jsonl'}\n"
        "queries with fewer negatives than requested: 2\n"
        "left out: queries without negatives: 1\n"
        "left out: (query, positive) pairs with fewer than 2 negatives: 1\n"
    )


def test_cli_offers_what_the_library_has() -> None:
    assert set(cli.FORMATS) == set(FORMATS)
    assert set(cli.FILE_TYPES) == set(WRITERS)


def test_a_folder_that_cannot_be_made_is_one_clear_error(store: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MinerError) as caught:
        made(store, tmp_path / "file" / "out")
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'file' / 'out'}: ")
