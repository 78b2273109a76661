"""Loads models without the libraries' own progress bars and reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import Any


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
