"""The GPU benchmark runs on a CPU with small sizes, through the same code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.py"


def test_every_part_is_measured(tmp_path: Path, script_environment: dict[str, str]) -> None:
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SCRIPT), "--trial", "--repeats", "1", "--results", str(rows)]
    done = subprocess.run(
        [*command, "--work", str(tmp_path)],
        env=script_environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {row["measurement"]: row for row in map(json.loads, rows.read_text("utf-8").splitlines())}
    assert list(found) == [
        "rate of bf16 products, TFLOP/s",
        "rate of fp32 products, TFLOP/s",
        "rate of copies, GB/s",
        "encoding, small, bf16: texts/s",
        "encoding, base, bf16: texts/s",
        "exact search: queries/s",
        "reranking, small, bf16: pairs/s",
        "training, MNR, bf16, miner: pairs/s",
        "training, MNR, bf16, plain trainer: pairs/s",
        "training: miner / plain trainer",
    ]
    assert found["exact search: queries/s"]["figures"]["recall_of_10_queries"] >= 0.99
    assert not any(row["full_size"] for row in found.values())
