"""A training that goes on computes with as many threads as it was begun with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from miner.engine.progress import SILENT
from miner.training.steps import training_threads


def threads(work: Path, requested: int | None = None) -> int:
    with training_threads(requested, work, SILENT):
        return torch.get_num_threads()


def test_the_threads_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert threads(tmp_path) == 1
        torch.set_num_threads(2)
        assert threads(tmp_path) == 1  # as it was begun
        assert threads(tmp_path, requested=3) == 3
        assert threads(tmp_path) == 3
        (tmp_path / "threads").write_text("damaged", "utf-8")
        assert threads(tmp_path) == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
