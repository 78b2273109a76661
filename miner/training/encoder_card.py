"""What an encoder's folder says of itself: metrics.json, the curve, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from miner.reporting.charts import Curve, Panel, draw
from miner.reporting.readable import Readable
from miner.reporting.tables import text_table
from miner.training.encoder_config import LOSSES, EncoderConfig
from miner.training.reranker_card import PACKAGES
from miner.training.workspace import METRICS

CURVE = "curve"
WHAT = "an encoder"


@dataclass(frozen=True)
class EncoderMetrics:
    """What is known of a finished training; `metrics.json` holds it."""

    fingerprint: str
    """Of the rows, the base and the settings: the same again gives the same model."""
    base: str
    base_fingerprint: str
    data: str
    """A hash of the rows."""
    about: Mapping[str, Any]
    """Where the rows come from, as the caller tells it."""
    config: Mapping[str, Any]
    dtype: str
    rows: int
    columns: Sequence[str]
    origin: str
    """The name of the file, folder or store that the rows came from."""
    classes: Sequence[str]
    dev: str | None
    """What the model was scored on on the way."""
    measure: str | None
    """The measure by which the model was chosen; None if nothing was scored."""
    seconds: float
    steps: int
    left_out: int
    """Rows of the first epoch that found no place in a batch without duplicates."""
    losses: Sequence[tuple[int, float]]
    scores: Sequence[tuple[int, Mapping[str, float]]]
    best_step: int | None
    truncated: int | None = None
    """Distinct texts of the first epoch that are longer than the model reads; None: not counted then."""
    what: str = WHAT

    @property
    def trained(self) -> str:
        """How much was trained, in words: steps, rows a step, and the rows that no batch took."""
        told = (
            f"{self.steps:,} step{'' if self.steps == 1 else 's'} of at most {self.config['batch_size']} rows"
        )
        if self.left_out:
            out = f"{self.left_out:,} of {self.rows:,} rows"
            told += f"; an epoch leaves out {out}, whose texts every batch holds"
        if self.truncated:
            told += f"; of {self.truncated:,} texts it read only the start"
        return told

    def json(self) -> str:
        """Returns the content of metrics.json."""
        versions = {name: version(name) for name in PACKAGES}
        return json.dumps({**asdict(self), "versions": versions}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> EncoderMetrics:
        """Returns what `json` wrote."""
        return cls(**{name: value for name, value in values.items() if name != "versions"})


@dataclass(frozen=True, repr=False)
class EncoderReport(Readable):
    """A finished encoder."""

    out: Path
    metrics: EncoderMetrics
    reused: bool
    """Whether it was finished before, and nothing was computed."""

    def as_text(self) -> str:
        """Returns where the model is, how it was trained, and its score before and after."""
        metrics, measure = self.metrics, self.metrics.measure
        rows = [["model", str(self.out)], ["base", metrics.base], ["trained", metrics.trained]]
        if measure is not None:
            before, best = (
                next(f"{found[measure]:.4f}" for step, found in metrics.scores if step == wanted)
                for wanted in (metrics.scores[0][0], metrics.best_step)
            )
            rows.append([f"dev {measure}", f"{before} before, {best} after step {metrics.best_step}"])
        return "\n".join(text_table(rows, left=(0, 1)))


def write_card(folder: Path, title: str, metrics: EncoderMetrics) -> None:
    """Writes metrics.json, curve.png, curve.svg and README.md into a model's folder."""
    (folder / METRICS).write_text(metrics.json(), "utf-8")
    draw(title, _panels(metrics), folder / f"{CURVE}.png", folder / f"{CURVE}.svg")
    (folder / "README.md").write_text(card(title, metrics), "utf-8")


def _panels(metrics: EncoderMetrics) -> list[Panel]:
    steps, losses = [list(column) for column in zip(*metrics.losses, strict=True)] or [[], []]
    panels = [Panel("step", "loss", [Curve("loss", steps, losses)])]
    if metrics.measure is not None:
        steps = [step for step, _ in metrics.scores]
        values = [found[metrics.measure] for _, found in metrics.scores]
        panels.append(Panel("step", f"dev {metrics.measure}", [Curve(metrics.measure, steps, values)]))
    return panels


def card(title: str, metrics: EncoderMetrics) -> str:
    """Returns the README.md of a trained encoder, with the front matter that model hubs read."""
    parts = [_front_matter(metrics), f"# {title}\n", _summary(metrics), _usage(title)]
    return "\n".join([*parts, _quality(metrics), _settings(metrics)])


def _front_matter(metrics: EncoderMetrics) -> str:
    lines = ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity"]
    lines += ["tags:", "- sentence-transformers", "- feature-extraction", "- miner"]
    if "/" in metrics.base and not metrics.base.startswith((".", "/", "~")):
        lines.append(f"base_model: {metrics.base}")
    return "\n".join(["---", *lines, "---", ""])


def _summary(metrics: EncoderMetrics) -> str:
    loss = metrics.config["loss"]
    return (
        f"An encoder trained with miner from `{metrics.base}` on {metrics.rows:,} rows "
        f"({', '.join(metrics.columns)}) of `{metrics.origin}`, loss `{loss}`: {LOSSES[loss].summary}.\n"
    )


def _usage(title: str) -> str:
    return f"""## Use

    miner mine STORE --encoder {title}
    miner evaluate {title} STORE --split test

```python
from sentence_transformers import SentenceTransformer

SentenceTransformer("{title}").encode(["a text"])
```
"""


def _quality(metrics: EncoderMetrics) -> str:
    curve = f"![training curve]({CURVE}.png)\n"
    if metrics.measure is None:
        return f"## Quality\n\nNothing was scored on the way: see `miner evaluate`.\n\n{curve}"
    names = list(metrics.scores[0][1])
    head = f"| step | {' | '.join(names)} |\n| ---: |{' ---: |' * len(names)}"
    rows = [
        f"| {step}{' (kept)' if step == metrics.best_step else ''} | "
        + " | ".join(f"{found[name]:.4f}" for name in names)
        + " |"
        for step, found in metrics.scores
    ]
    what = f"On {metrics.dev}; step 0 is the base. The model with the best {metrics.measure} was kept."
    return "\n".join(["## Quality\n", f"{what}\n", head, *rows, "", curve])


def _settings(metrics: EncoderMetrics) -> str:
    config = EncoderConfig(**metrics.config)
    shown = {name: value for name, value in metrics.config.items() if value is not None}
    lines = [f"| {name} | {value} |" for name, value in shown.items() if config.reads(name)]
    facts = (
        f"Trained in {metrics.seconds:.0f} s, computed in {metrics.dtype}: {metrics.trained}. "
        f"Fingerprint of rows, base and settings: `{metrics.fingerprint[:16]}`.\n"
    )
    return "\n".join(["## Settings\n", facts, "| setting | value |", "| --- | --- |", *lines, ""])
