"""Pushing exports to a Hub: a local server that speaks the calls of the real client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

import miner
from miner.cli.main import group
from miner.errors import MinerError, UsageError
from miner.export.push import PushConfig, PushReport, push_export, pushed
from miner.store.database import Database
from tests.export_store import fill, made
from tests.hub import TOKEN, Hub, serving
from tests.stores import new_store
from tests.tiny import tiny_bert


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "hub") as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An export with ids."""
    export(tmp_path, tmp_path / "out", format="ids")
    return tmp_path / "out"


def export(tmp_path: Path, out: Path, **config: object) -> None:
    with Database.open(tmp_path / "my.duckdb", create=True) as store:
        if not store.rows("FROM runs"):
            fill(store)
        made(store, out, force=True, **config)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def push(out: Path, repo: str, **config: bool) -> PushReport:
    return push_export(out, repo, PushConfig(**config))


def test_a_push_makes_a_private_data_set_of_the_same_bytes(hub: Hub, out: Path) -> None:
    report = push(out, "me/cats")
    assert hub.files("me/cats") == files(out)
    assert hub.public == set()
    assert (report.url, report.is_pull_request) == (f"{hub.url}/datasets/me/cats/commit/1", False)
    assert [file.path for file in report.files][:2] == ["README.md", "manifest.json"]
    assert sum(file.size for file in report.files) == sum(map(len, files(out).values()))
    assert len(hub.commits) == 1


@pytest.mark.slow
def test_load_dataset_reads_what_arrived(hub: Hub, out: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    push(out, "team/cats")
    found = load_dataset(
        str(hub.folder / "team/cats"), "triplet-hard", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found[-1] == {"query_id": "q2", "positive_id": "d3", "negative_id": "d4"}


def test_public_only_if_requested(hub: Hub, out: Path) -> None:
    push(out, "me/open", public=True)
    assert hub.public == {"me/open"}
    before = hub.files("me/open")
    with pytest.raises(UsageError, match="me/open is public, so everyone could read what you push") as caught:
        push(out, "me/open")
    assert caught.value.hint == "name another, or add --set public=true"
    assert hub.files("me/open") == before


def test_a_second_push_sends_only_changes_and_removes_what_is_left(
    hub: Hub, out: Path, tmp_path: Path
) -> None:
    push(out, "me/cats")
    folder = hub.folder / "me/cats"
    (folder / "notes.txt").write_text("of the user")
    (folder / "triplet/train-00001-of-00002.parquet").write_text("of an earlier push")
    report = push(out, "me/cats")
    assert report.deleted == ("triplet/train-00001-of-00002.parquet",)
    assert hub.files("me/cats") == {**files(out), "notes.txt": b"of the user"}
    commits = len(hub.commits)
    again = push(out, "me/cats")
    assert len(hub.commits) == commits
    assert not again.is_changed
    assert report.is_changed
    assert pushed(again).startswith("me/cats has all 10 files already: ")
    export(tmp_path, out, format="triplet")
    push(out, "me/cats")
    assert (folder / "data/train.jsonl").read_bytes() == (out / "data/train.jsonl").read_bytes()


def test_others_get_a_pull_request(hub: Hub, out: Path) -> None:
    theirs = hub.add("others/set")
    (theirs / "README.md").write_text("theirs")
    report = push(out, "others/set")
    assert report.is_pull_request
    assert report.url == f"{hub.url}/datasets/others/set/discussions/1"
    assert hub.files("others/set") == {"README.md": b"theirs"}
    assert hub.files("pull requests/others/set") == files(out)


def test_a_pull_request_into_an_own_data_set_and_none_into_anothers(hub: Hub, out: Path) -> None:
    hub.add("me/set")
    assert push(out, "me/set", create_pr=True).is_pull_request
    hub.add("others/shared")
    assert not push(out, "others/shared", create_pr=False).is_pull_request
    assert hub.files("others/shared") == files(out)


REFUSED = [
    (
        "others/none",
        {},
        "there is no data set others/none on the Hub, or you may not see it; you are me: push to me/NAME",
    ),
    (
        "me/none",
        {"create_pr": True},
        "there is no data set me/none on the Hub, or you may not see it; leave create_pr out to make it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("repo", "config", "message"), REFUSED)
def test_a_pull_request_needs_a_data_set(
    hub: Hub, out: Path, repo: str, config: dict[str, bool], message: str
) -> None:
    with pytest.raises(MinerError) as caught:
        push(out, repo, **config)
    assert str(caught.value) == message
    assert hub.commits == []


@pytest.mark.parametrize("repo", ["cats", "a/b/c", "me/", "me/a b", "me/-x", ""])
def test_names_of_another_form(hub: Hub, out: Path, repo: str) -> None:
    with pytest.raises(UsageError, match="is not a name that the Hub can have; write OWNER/NAME"):
        push(out, repo)
    assert hub.seen == []


def test_without_a_login(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MinerError) as caught:
        push(out, "me/cats")
    assert str(caught.value) == "you are not logged in to the Hugging Face Hub; hf auth login"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        MinerError, match=r"the Hub refused the push to me/cats \(401\): .*; log in: hf auth login"
    ):
        push(out, "me/cats")


def test_a_refused_commit(hub: Hub, out: Path) -> None:
    hub.add("me/cats")
    hub.refusing = 403
    with pytest.raises(MinerError) as caught:
        push(out, "me/cats")
    assert str(caught.value) == (
        "the Hub refused the push to me/cats (403): You may not write here.; use a token that may write to it"
    )


def test_offline_and_unreachable(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MinerError, match="cannot push to me/cats: ConnectError"):
        push(out, "me/cats")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MinerError) as caught:
        push(out, "me/cats")
    assert str(caught.value) == "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"


def test_only_a_whole_export_is_pushed(hub: Hub, out: Path, tmp_path: Path) -> None:
    (out / "secret.txt").write_text("not listed")
    push(out, "me/cats")
    assert "secret.txt" not in hub.files("me/cats")
    (out / "triplet/train-00000-of-00001.parquet").unlink()
    with pytest.raises(UsageError) as caught:
        push(out, "me/other")
    assert str(caught.value) == (
        f"{out} is not a whole export: triplet/train-00000-of-00001.parquet missing or changed; "
        "export again with --force"
    )
    with pytest.raises(UsageError, match="is not an export; name a folder that miner export wrote"):
        push(tmp_path, "me/other")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(group, ["export", *map(str, arguments)])
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_the_command_pushes_and_a_dry_run_sends_nothing(hub: Hub, tmp_path: Path) -> None:
    store, out = tmp_path / "my.duckdb", tmp_path / "out"
    with new_store(store) as opened:
        fill(opened)
    code, output = run(store, out, "--push", "me/cats", "--set", "dry_run=true")
    assert code == 0, output
    assert "dry run: a push to me/cats would send 3 files," in output
    assert "  data/train.jsonl (" in output
    assert hub.seen == []
    code, output = run(store, out, "--push", "me/cats")
    assert code == 0, output
    assert f"3 files pushed to me/cats, commit {hub.url}/datasets/me/cats/commit/1" in output
    assert hub.files("me/cats") == files(out)


def test_settings_of_a_push_without_a_push_are_refused(tmp_path: Path) -> None:
    with new_store(tmp_path / "my.duckdb") as opened:
        fill(opened)
    code, output = run(tmp_path / "my.duckdb", tmp_path / "out", "--set", "public=true")
    assert code != 0
    assert "public without --push has no effect; add --push OWNER/NAME" in output
    assert not (tmp_path / "out").exists()


def test_from_python(hub: Hub, out: Path) -> None:
    report = miner.push_export(out, "me/cats", dry_run=True)
    assert report.url is None
    assert hub.seen == []
    assert miner.push_export(str(out), "me/cats").url is not None


def test_a_model(hub: Hub, tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    (model / ".cache").mkdir()
    (model / ".cache/log").write_text("hidden")
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling/config.json").write_text("{}")
    report = miner.push_model(model, "me/encoder")
    sent = {path: content for path, content in files(model).items() if not path.startswith(".")}
    assert hub.files("me/encoder") == sent
    assert {file.path for file in report.files} == {*sent}
    assert "POST /api/models/me/encoder/commit/main" in hub.seen
    assert hub.public == set()
    with pytest.raises(UsageError, match="is not a model; name a folder that miner train wrote"):
        miner.push_model(tmp_path, "me/other")


@pytest.mark.slow
def test_a_training_pushes_its_model(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_store(tmp_path / "my.duckdb") as store:
        fill(store)
    store, out = str(tmp_path / "my.duckdb"), tmp_path / "model"
    base = ["train", store, str(out), "--base", str(tiny_bert(tmp_path / "base")), "--set", "max_steps=1"]
    result = CliRunner().invoke(group, [*base, "--set", "public=true"])
    assert str(result.exception) == "public without push has no effect; add --set push=OWNER/NAME"
    assert not out.exists()
    result = CliRunner().invoke(group, [*base, "--set", "push=me/model"])
    assert result.exit_code == 0, result.output
    assert f"files pushed to me/model, commit {hub.url}/datasets/me/model/commit/1" in result.output
    assert hub.files("me/model") == files(out)
    assert "model.safetensors" in hub.files("me/model")


@pytest.mark.parametrize("way", ["absolute", "above", "link"])
def test_a_manifest_cannot_send_files_from_elsewhere(hub: Hub, out: Path, tmp_path: Path, way: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    (out / "link").symlink_to(secret)
    path = {"absolute": str(secret), "above": "../secret", "link": "link"}[way]
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"].append({"path": path, "bytes": 3, "sha256": ""})
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="lists files outside of the folder"):
        push(out, "me/cats")


def test_files_that_another_tool_left_stay(hub: Hub, tmp_path: Path) -> None:
    export(tmp_path, tmp_path / "out", format="triplet")
    theirs = hub.add("me/own")
    (theirs / "data").mkdir()
    (theirs / "data/train-00000-of-00001.parquet").write_text("of push_to_hub")
    assert push(tmp_path / "out", "me/own", public=True).deleted == ()
    assert "data/train-00000-of-00001.parquet" in hub.files("me/own")
