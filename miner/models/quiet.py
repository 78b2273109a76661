"""Loads models without the libraries' own progress bars and reports; one error for any that do not load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import Any

from miner.errors import ModelError

FROM_DISK: dict[str, Any] = {
    "trust_remote_code": False,
    "local_files_only": True,
    "model_kwargs": {"use_safetensors": True},
}
"""How every model is loaded: from its folder, from safetensors, and without running code of its own."""


@contextmanager
def quietly() -> Iterator[None]:
    """Prevents transformers and sentence-transformers from writing to the terminal within it."""
    from transformers.utils import logging

    transformers_logging: Any = logging
    library = getLogger("sentence_transformers")
    shown = transformers_logging.is_progress_bar_enabled()
    before = transformers_logging.get_verbosity(), library.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    library.setLevel(ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before[0])
        library.setLevel(before[1])
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def loading(what: str, hint: str) -> Iterator[None]:
    """Loads a model within it, quietly; raises ModelError with `what` failed, why, and the hint."""
    try:
        with quietly():
            yield
    except Exception as error:  # damaged configurations and weights make the libraries raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{what}: {reason}", hint) from error
