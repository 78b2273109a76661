"""What a pretrained encoder's folder says of itself: metrics.json, the curve, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from miner.reporting.charts import Curve, Panel, draw
from miner.reporting.readable import Readable
from miner.training.reranker_card import PACKAGES
from miner.training.workspace import METRICS

WHAT = "a pretrained encoder"
CURVE = "curve"


@dataclass(frozen=True)
class PretrainMetrics:
    """What is known of a finished pretraining; `metrics.json` holds it."""

    fingerprint: str
    """Of the texts, the base and the settings: the same again gives the same model."""
    base: str
    base_fingerprint: str
    texts: str
    """sha256 of the texts in order."""
    documents: int
    queries: int
    """Distinct texts learnt from; a query that reads like a document counts as the document."""
    config: Mapping[str, Any]
    dtype: str
    steps: int
    losses: Sequence[tuple[int, float]]
    """Step, and the mean loss since the one before: cross-entropy per token, in nats."""
    seconds: float
    what: str = WHAT

    def json(self) -> str:
        """Returns the content of metrics.json."""
        versions = {name: version(name) for name in PACKAGES}
        return json.dumps({**asdict(self), "versions": versions}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> PretrainMetrics:
        """Returns what `json` wrote."""
        return cls(**{name: value for name, value in values.items() if name != "versions"})


@dataclass(frozen=True, repr=False)
class PretrainReport(Readable):
    """A finished pretraining."""

    out: Path
    metrics: PretrainMetrics
    reused: bool
    """Whether it was finished before, and nothing was computed."""


def write_card(folder: Path, title: str, metrics: PretrainMetrics) -> None:
    """Writes metrics.json, curve.png, curve.svg and README.md into a model's folder."""
    (folder / METRICS).write_text(metrics.json(), "utf-8")
    steps, losses = [list(column) for column in zip(*metrics.losses, strict=True)]
    draw(
        title,
        [Panel("step", "loss per token", [Curve("loss", steps, losses)])],
        folder / f"{CURVE}.png",
        folder / f"{CURVE}.svg",
    )
    (folder / "README.md").write_text(card(title, metrics), "utf-8")


def card(title: str, metrics: PretrainMetrics) -> str:
    """Returns the README.md of a pretrained encoder, with the front matter that model hubs read."""
    parts = [_front_matter(metrics), f"# {title}\n", _summary(metrics), _usage(title), _settings(metrics)]
    return "\n".join(parts)


def _front_matter(metrics: PretrainMetrics) -> str:
    lines = ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity"]
    lines += ["tags:", "- sentence-transformers", "- feature-extraction", "- tsdae", "- miner"]
    if "/" in metrics.base and not metrics.base.startswith((".", "/", "~")):
        lines.append(f"base_model: {metrics.base}")
    return "\n".join(["---", *lines, "---", ""])


def _summary(metrics: PretrainMetrics) -> str:
    config = metrics.config
    left_out = f"; queries judged in split `{config['without']}` were left out" if config["without"] else ""
    return f"""An encoder pretrained with miner from `{metrics.base}` on unlabelled text: documents
{metrics.documents:,}, queries {metrics.queries:,}, no judgment of what answers what{left_out}.

TSDAE (Wang, Reimers, Gurevych, Findings of EMNLP 2021): of each text, words are deleted with
probability {config["deletion"]}, and a decoder that sees nothing but the vector of the rest, and shares the
encoder's weights, rebuilds the text. It adapts a model to a domain; training on pairs comes after it.
"""


def _usage(title: str) -> str:
    return f"""## Use

    miner train TRIPLETS OUT --base {title}
    miner mine STORE --encoder {title}

```python
from sentence_transformers import SentenceTransformer

SentenceTransformer("{title}").encode(["a text"])
```
"""


def _settings(metrics: PretrainMetrics) -> str:
    lines = [f"| {name} | {value} |" for name, value in metrics.config.items() if value is not None]
    facts = (
        f"{metrics.steps} steps in {metrics.seconds:.0f} s, computed in {metrics.dtype}. "
        f"Fingerprint of texts, base and settings: `{metrics.fingerprint}`.\n"
    )
    curve = f"\n![training curve]({CURVE}.png)\n"
    return "\n".join(["## Training\n", facts, "| setting | value |", "| --- | --- |", *lines, curve])
