"""The model card: what a reranker was trained on, how, and how well it ranks held-out queries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.training.reranker_config import RerankerConfig

WHAT = "a reranker"
PACKAGES = ("sentence-transformers", "transformers", "torch", "numpy", "bm25s")


@dataclass(frozen=True)
class Metrics:
    """What is known of a finished training; `metrics.json` holds it."""

    fingerprint: str
    """Of the data, the base and the settings: the same again gives the same model."""
    base: str
    base_fingerprint: str
    data: Mapping[str, str]
    """Content hashes of documents, queries and judgments."""
    config: Mapping[str, Any]
    dtype: str
    queries: int
    """Queries trained on."""
    positives: int
    mined: int
    random: int
    steps: int
    """Batches of all models together."""
    losses: Sequence[Sequence[float]]
    """Per model, the mean loss of each tenth of its training."""
    held_out_queries: int
    held_out_pairs: int
    average_precision: float | None
    """Mean over the held-out queries; None if none was held out."""
    chance: float | None
    """What documents in random order would get."""
    seconds: float
    calibration: Mapping[str, Any] | None = None
    """The fields of `Calibration`; None where none was asked for."""
    what: str = WHAT

    def json(self) -> str:
        """Returns the content of metrics.json."""
        versions = {name: version(name) for name in PACKAGES}
        return json.dumps({**asdict(self), "versions": versions}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, text: str) -> Metrics:
        """Returns what `json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        values = json.loads(text)
        del values["versions"]
        return cls(**values)


def mean_average_precision(
    query: npt.NDArray[Any], positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> float:
    """Returns the mean over queries of the average precision of ranking by score.

    AP is the mean over a query's positives of the precision at their rank (Manning et al. 2008,
    8.4). On equal scores negatives come first, so a constant score earns nothing.
    """
    order = np.lexsort((positive, -scores, query))
    query, positive = query[order], positive[order]
    start = np.searchsorted(query, query)
    rank = np.arange(len(query)) - start + 1
    found = np.cumsum(positive)
    before: npt.NDArray[np.int64] = found[start] - positive[start]
    precision = (found - before)[positive] / rank[positive]
    owners, sums = np.unique(query[positive], return_inverse=True)
    totals = np.bincount(sums, weights=precision) / np.bincount(sums)
    return float(totals.mean()) if len(owners) else float("nan")


def chance_precision(
    query: npt.NDArray[Any], positive: npt.NDArray[np.bool_], rounds: int = 20, seed: int = 13
) -> float:
    """Returns the mean average precision of random scores, over a few seeded rounds."""
    rng = np.random.default_rng(seed)
    return float(
        np.mean([mean_average_precision(query, positive, rng.random(len(query))) for _ in range(rounds)])
    )


def card(title: str, config: RerankerConfig, metrics: Metrics) -> str:
    """Returns the README.md of a trained reranker, with the front matter that model hubs read."""
    single = config.folds == 0
    parts = [
        _front_matter(metrics),
        f"# {title}\n",
        "A cross-encoder that scores how well a document answers a query, trained with miner on judged "
        f"positives, mined negatives and random negatives, from `{metrics.base}`.\n",
        _usage(title) if single else _fold_usage(title, config.folds),
        _quality(metrics),
        _probabilities(config, metrics.calibration),
        _recipe(config, metrics),
        _settings(config, metrics),
    ]
    return "\n".join(parts)


def _front_matter(metrics: Metrics) -> str:
    lines = ["library_name: sentence-transformers", "pipeline_tag: text-ranking"]
    lines += ["tags:", "- sentence-transformers", "- cross-encoder", "- reranker", "- miner"]
    if "/" in metrics.base and not metrics.base.startswith((".", "/", "~")):
        lines.append(f"base_model: {metrics.base}")
    return "\n".join(["---", *lines, "---", ""])


def _usage(title: str) -> str:
    return f"""## Use

    miner mine STORE --reranker {title}

```python
from sentence_transformers import CrossEncoder

CrossEncoder("{title}").predict([("a query", "a document")])
```
"""


def _fold_usage(title: str, folds: int) -> str:
    return f"""## Use

    miner mine STORE --reranker {title}

{folds} models under one name: a query is scored by the one of its fold, which never trained on that
query. Each folder `fold-0` to `fold-{folds - 1}` is a sentence-transformers CrossEncoder by itself.
"""


def _quality(metrics: Metrics) -> str:
    if metrics.average_precision is None:
        return "## Quality\n\nNo query was held out, so nothing is known of it.\n"
    return f"""## Quality

Average precision on held-out queries: **{metrics.average_precision:.4f}**
(random order: {metrics.chance:.4f}).

The mean over {metrics.held_out_queries} queries that no model trained on of the average precision of
ranking their judged positives against their mined and random negatives, {metrics.held_out_pairs} pairs.
Mined negatives are unjudged, and some are right answers: a perfect model stays below 1.
"""


def _probabilities(config: RerankerConfig, calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "## Probabilities\n\nNot calibrated: a score orders documents and is no probability.\n"
    if calibration["reason"]:
        return f"## Probabilities\n\nNot calibrated: {calibration['reason']}. A score is no probability.\n"
    rows = [f"| {pairs} | {mean:.3f} | {share:.3f} |" for pairs, mean, share in calibration["table"]]
    scalings = ", ".join(f"{s['slope']:.3f} · logit {s['intercept']:+.3f}" for s in calibration["scalings"])
    (brier, scaled), (error, left) = calibration["brier"], calibration["calibration_error"]
    return f"""## Probabilities

A score of 0.8 means: of pairs drawn like the training pairs (1 judged positive : {config.mined} mined :
{config.random} random negatives) and scored so, about 8 in 10 are positives. Of pairs drawn otherwise, such
as the first ranks of a retriever, another share is: the order stays right, the number shifts.

Platt scaling within the last layer ({scalings}), fitted on {calibration["pairs"]} held-out
pairs, {calibration["positives"]} of them positives. Measured on each part of the queries with a scaling
fitted on the others:

| | before | after |
| --- | ---: | ---: |
| Brier score | {brier:.4f} | {scaled:.4f} |
| expected calibration error, {len(rows)} bins of equal size | {error:.4f} | {left:.4f} |

| pairs | mean score | positives |
| ---: | ---: | ---: |
{chr(10).join(rows)}
"""


def _recipe(config: RerankerConfig, metrics: Metrics) -> str:
    return f"""## Training data

| | pairs |
| --- | ---: |
| positives, of {metrics.queries} queries of split `{config.split}` | {metrics.positives} |
| mined negatives | {metrics.mined} |
| random negatives | {metrics.random} |

Per positive, {config.mined} negatives drawn from BM25's ranks {config.skip_top + 1} to {config.depth}
(the first {config.skip_top} are left out: that is where the unjudged positives are) and {config.random}
from all documents. None is judged positive in any split, has the text of a positive or of the query,
shares the query's label, or is empty. Where too few were left, there are fewer.

Content: documents `{metrics.data["documents"]}`, queries `{metrics.data["queries"]}`, judgments
`{metrics.data["judgments"]}`. Fingerprint of data, base and settings: `{metrics.fingerprint}`.
"""


def _settings(config: RerankerConfig, metrics: Metrics) -> str:
    rows = [f"| {name} | {value} |" for name, value in config.identity().items()]
    rows += [f"| computed in | {metrics.dtype} |", f"| steps | {metrics.steps} |"]
    first, last = (fmean(losses[tenth] for losses in metrics.losses) for tenth in (0, -1))
    rows += [f"| loss, first and last tenth | {first:.4f}, {last:.4f} |"]
    rows += [f"| {name} | {version(name)} |" for name in PACKAGES]
    head = "## Training\n\nBinary cross-entropy, AdamW, linear warm-up and decay.\n\n| | |\n| --- | --- |"
    return "\n".join([head, *rows, ""])
