"""Pushing an export or a model to the Hugging Face Hub: private by default, in one commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from miner.errors import MinerError, UsageError, counted, listed
from miner.ranges import check_fields, known_keywords
from miner.reporting.readable import Readable
from miner.sources.exported import MANIFEST, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DATASET, MODEL = "dataset", "model"
WORDS = {DATASET: "data set", MODEL: "model"}
"""What the kinds of repositories are called in messages."""


@known_keywords
@dataclass(frozen=True)
class PushConfig:
    """The settings of a push."""

    public: bool = False
    """Whether the repository may be public; otherwise it is made private, and a public one is refused."""
    create_pr: bool | None = None
    """Whether to open a pull request; None: if the owner is neither you nor an organisation of yours."""
    dry_run: bool = False
    """Whether only to list the files that would be pushed, without a network."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PushedFile:
    """A file that is pushed."""

    path: str
    """Its path in the repository."""
    size: int
    """In bytes."""

    def __str__(self) -> str:
        return f"{self.path} ({self.size:,} bytes)"


@dataclass(frozen=True, repr=False)
class PushReport(Readable):
    """The result of a push."""

    repo: str
    files: tuple[PushedFile, ...]
    """All files of the push, also those that were there already."""
    url: str | None
    """The address of the commit, or of the pull request; None for a dry run."""
    is_pull_request: bool
    deleted: tuple[str, ...] = ()
    """Files of an earlier push that were removed."""
    is_changed: bool = True
    """Whether anything was sent: a repository that has all files already stays as it is."""


def require_repo(repo: str) -> None:
    """Raises UsageError if a text is not OWNER/NAME as the Hub has it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        if repo.count("/") != 1:
            raise HFValidationError("it has no owner" if "/" not in repo else "it has more than one /")
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(
            f"'{repo}' is not a name that the Hub can have",
            f"write OWNER/NAME: {str(error).splitlines()[0]}",
        ) from error


def push_export(folder: Path, repo: str, config: PushConfig) -> PushReport:
    """Pushes the export in a folder to the data set OWNER/NAME on the Hub, as one commit.

    Card, manifest and the files that the manifest lists are sent, nothing else. Files of an earlier push in
    the same folders are removed. The token is that of `hf auth login` or HF_TOKEN. Raises UsageError for a
    name of another form, a folder that is not a whole export, or a public data set without `public`;
    MinerError if the Hub refuses or cannot be reached.
    """
    require_repo(repo)
    return _push(folder, repo, _files(folder), DATASET, config)


def push_model(folder: Path, repo: str, config: PushConfig) -> PushReport:
    """Pushes the model in a folder to the model OWNER/NAME on the Hub, as `push_export` does.

    All its files are sent but hidden ones. Raises what `push_export` raises.
    """
    require_repo(repo)
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        raise UsageError(f"{folder} is not a model", "name a folder that miner train wrote")
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    files = tuple(PushedFile(path.as_posix(), _size(folder / path)) for path in shown)
    return _push(folder, repo, files, MODEL, config)


def _push(
    folder: Path, repo: str, files: tuple[PushedFile, ...], kind: str, config: PushConfig
) -> PushReport:
    if config.dry_run:
        return PushReport(repo, files, None, bool(config.create_pr))
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = are_progress_bars_disabled()
    api = HfApi()
    with _explaining(repo):
        is_pull_request, revision = _prepared(api, repo, kind, config)
        old = _superseded(api, repo, kind, files)
        adding = [CommitOperationAdd(file.path, folder / file.path) for file in files]
        disable_progress_bars()
        try:
            commit = api.create_commit(
                repo,
                [*adding, *(CommitOperationDelete(path, is_folder=False) for path in old)],
                commit_message=f"Push a {WORDS[kind]} of hardneg-miner",
                repo_type=kind,
                create_pr=is_pull_request,
            )
        finally:
            if not quiet:
                enable_progress_bars()
    url = commit.pr_url if is_pull_request and commit.pr_url else commit.commit_url
    return PushReport(repo, files, url, is_pull_request, old, commit.oid != revision)


def _files(folder: Path) -> tuple[PushedFile, ...]:
    """Returns the files of an export; raises UsageError if one is missing or has another size."""
    facts = read_manifest(folder)
    if facts is None:
        raise UsageError(f"{folder} is not an export", "name a folder that miner export wrote")
    files = [PushedFile(name, _size(folder / name)) for name in ("README.md", MANIFEST)]
    files += [PushedFile(file["path"], file["bytes"]) for file in facts["files"]]
    outside = [file.path for file in files if not _is_inside(folder, file.path)]
    if outside:
        raise UsageError(
            f"{folder}/{MANIFEST} lists files outside of the folder: {listed(outside)}",
            "export again with --force",
        )
    changed = [file.path for file in files if _size(folder / file.path) != file.size or file.size < 0]
    if changed:
        raise UsageError(
            f"{folder} is not a whole export: {listed(changed)} missing or changed",
            "export again with --force",
        )
    return tuple(files)


def _is_inside(folder: Path, name: str) -> bool:
    """Returns whether a path leads to a place in the folder, links followed."""
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _prepared(api: HfApi, repo: str, kind: str, config: PushConfig) -> tuple[bool, str | None]:
    """Makes the repository, or checks the one that is there.

    Returns whether to open a pull request, and the revision of the repository, None of a new one.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    me = api.whoami()
    own = {me["name"], *(one["name"] for one in me.get("orgs", ()))}
    owner = repo.partition("/")[0]
    is_mine = owner.lower() in {name.lower() for name in own}
    pull_request = not is_mine if config.create_pr is None else config.create_pr
    try:
        found = api.repo_info(repo, repo_type=kind)
    except RepositoryNotFoundError as error:
        if not is_mine or config.create_pr:
            raise MinerError(
                f"there is no {WORDS[kind]} {repo} on the Hub, or you may not see it",
                f"you are {me['name']}: push to {me['name']}/NAME"
                if not is_mine
                else "leave create_pr out to make it",
            ) from error
        api.create_repo(repo, repo_type=kind, private=not config.public)
        return False, None
    if not found.private and not config.public:
        raise UsageError(
            f"{repo} is public, so everyone could read what you push",
            "name another, or add --set public=true",
        )
    return pull_request, found.sha


def _superseded(api: HfApi, repo: str, kind: str, files: tuple[PushedFile, ...]) -> tuple[str, ...]:
    """Returns the files that an earlier push left in the folders of this one.

    A data set without a manifest had none: another tool wrote its files, which stay.
    """
    now = {file.path for file in files}
    folders = {path.partition("/")[0] for path in now if "/" in path}
    there = api.list_repo_files(repo, repo_type=kind)
    if kind == DATASET and MANIFEST not in there:
        return ()
    return tuple(sorted(path for path in there if path.partition("/")[0] in folders and path not in now))


@contextmanager
def _explaining(repo: str) -> Iterator[None]:
    """Turns the errors of the Hub's client into errors that say what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise MinerError("you are not logged in to the Hugging Face Hub", "hf auth login") from error
    except OfflineModeIsEnabled as error:
        raise MinerError("HF_HUB_OFFLINE is set, so nothing can be pushed", "unset it") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        hint = {401: "log in: hf auth login", 403: "use a token that may write to it"}.get(code, "try again")
        reason = next(iter((error.server_message or str(error)).splitlines()), "")
        raise MinerError(f"the Hub refused the push to {repo} ({code}): {reason}", hint) from error
    except MinerError:
        raise
    except Exception as error:  # the hub client raises any exception of its transport
        raise MinerError(
            f"cannot push to {repo}: {type(error).__name__}: {error}",
            "check the network; the folder is complete: the same command pushes it again",
        ) from error


def pushed(report: PushReport) -> str:
    """Returns the lines that say what was pushed, or what a push would send."""
    files = counted(len(report.files), "file")
    size = sum(file.size for file in report.files)
    if report.url is None:
        lines = [f"dry run: a push to {report.repo} would send {files}, {size:,} bytes"]
        return "\n".join([*lines, *(f"  {file}" for file in report.files)])
    if not report.is_changed:
        return f"{report.repo} has all {files} already: {report.url}"
    kind = "pull request" if report.is_pull_request else "commit"
    lines = [f"{files} pushed to {report.repo}, {kind} {report.url}"]
    if report.deleted:
        lines.append(f"removed there, from an earlier push: {listed(report.deleted)}")
    return "\n".join(lines)
