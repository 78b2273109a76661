"""The front matter of model cards and data set cards: YAML that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_front_matter(base: str, task: str, tags: Sequence[str]) -> str:
    """Returns the front matter of a model that was trained from `base` with sentence-transformers.

    `task` is the Hub's pipeline tag. The base is named if it is a Hub id; a local path means nothing there.
    """
    from huggingface_hub import ModelCardData

    is_hub_id = "/" in base and not base.startswith((".", "/", "~"))
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=task,
        tags=["sentence-transformers", *tags],
        base_model=base if is_hub_id else None,
    )
    return _fenced(data.to_yaml(line_break="\n"))


def dataset_front_matter(
    facts: Mapping[str, Any],
    tasks: Sequence[str],
    rows: int,
    configs: Sequence[Mapping[str, Any]],
    infos: Sequence[Mapping[str, Any]],
) -> str:
    """Returns the front matter of a data set of `rows` rows.

    `facts` are the title (`pretty_name`) and what the user says, such as `language` and `license`, by the
    Hub's names. `tasks` are the Hub's task categories. `configs` say how `datasets` loads the files, and
    `infos` are the columns of each config as `datasets` writes them.
    """
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        **facts,
        tags=["sentence-transformers", "hard-negatives"],
        task_categories=list(tasks),
        size_categories=[_size(rows)],
        configs=[dict(config) for config in configs],
        dataset_info=[dict(info) for info in infos] if len(infos) > 1 else dict(infos[0]),
    )
    return _fenced(data.to_yaml(line_break="\n", original_order=list(_ORDER)))


_ORDER = (
    "language",
    "license",
    "size_categories",
    "task_categories",
    "source_datasets",
    "pretty_name",
    "tags",
    "configs",
    "dataset_info",
)
"""The order of the keys in a data set card, as in those that sentence-transformers publishes."""
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
"""The Hub's size categories: fewer than 1,000 rows, and then one for each further digit."""


def _size(rows: int) -> str:
    return _SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]


def _fenced(yaml: str) -> str:
    return f"---\n{yaml}\n---"
