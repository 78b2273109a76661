"""The figures and the model card in the folder of a trained model: metrics.json, README.md, the chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import Any, Self

from miner.errors import counted, printable
from miner.reporting.cards import model_front_matter
from miner.reporting.charts import Curve, Panel, draw
from miner.reporting.readable import Readable
from miner.reporting.tables import markdown_table, text_table
from miner.training.encoder_config import LOSSES, EncoderConfig
from miner.training.reranker_config import BCE, RERANKER_LOSSES, RerankerConfig
from miner.training.workspace import METRICS

CURVE = "curve"
"""The name of the chart, without its ending."""
ENCODER, PRETRAINED, RERANKER = "an encoder", "a pretrained encoder", "a reranker"
"""What each training makes: metrics.json says it as `what`."""
PACKAGES = ("sentence-transformers", "transformers", "torch", "numpy", "bm25s")
"""The packages whose versions are recorded."""


@dataclass(frozen=True)
class Metrics:
    """The facts of every finished training; metrics.json holds them."""

    fingerprint: str
    """A hash of the data, the base and the settings: equal fingerprints mean equal models."""
    base: str
    base_fingerprint: str
    config: Mapping[str, Any]
    dtype: str
    seconds: float
    steps: int

    def json(self) -> str:
        """Returns the content of metrics.json."""
        versions = {name: version(name) for name in PACKAGES}
        return json.dumps({**asdict(self), "versions": versions}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Returns the metrics from the content of metrics.json; TypeError if it is of another training."""
        return cls(**{name: value for name, value in values.items() if name != "versions"})


@dataclass(frozen=True)
class EncoderMetrics(Metrics):
    """The facts of an encoder that was trained on rows."""

    data: str
    """A hash of the rows."""
    about: Mapping[str, Any]
    """The caller's description of the source of the rows."""
    rows: int
    columns: Sequence[str]
    origin: str
    """The name of the file, folder or store that the rows come from."""
    classes: Sequence[str]
    dev: str | None
    """The split that the model was scored on during training."""
    measure: str | None
    """The measure that chose the model; None if the model was not scored."""
    left_out: int
    """Rows of the first epoch that are in no batch, because their texts would be there twice."""
    losses: Sequence[tuple[int, float]]
    """Step, and the mean loss since the step before."""
    scores: Sequence[tuple[int, Mapping[str, float]]]
    """Step, and the measures on the dev split."""
    best_step: int | None
    """The step whose model was kept; None if the last model was kept without a score."""
    truncated: int | None = None
    """Distinct texts of the first epoch that are longer than the model reads; None if they were not
    counted."""
    what: str = ENCODER

    @property
    def trained(self) -> str:
        """How much was trained, in words: steps, rows per step, rows in no batch, truncated texts."""
        parts = [f"{counted(self.steps, 'step')} of at most {self.config['batch_size']} rows"]
        if self.left_out:
            parts.append(
                f"each epoch leaves out {self.left_out:,} of {self.rows:,} rows: every batch already "
                "contains their texts"
            )
        if self.truncated:
            parts.append(f"{counted(self.truncated, 'text')} truncated")
        return "; ".join(parts)


@dataclass(frozen=True)
class PretrainMetrics(Metrics):
    """The facts of an encoder that was pretrained on texts without labels."""

    texts: str
    """sha256 of the texts in order."""
    documents: int
    queries: int
    """Distinct texts trained on; a query with the text of a document counts as the document."""
    losses: Sequence[tuple[int, float]]
    """Step, and the mean loss since the step before: cross-entropy per token, in nats."""
    what: str = PRETRAINED


@dataclass(frozen=True)
class RerankerMetrics(Metrics):
    """The facts of a reranker, or of an ensemble of folds."""

    data: Mapping[str, str]
    """Content hashes of documents, queries and judgments."""
    queries: int
    """Queries trained on."""
    positives: int
    mined: int
    random: int
    losses: Sequence[Sequence[float]]
    """Per model, the mean loss of each tenth of its training."""
    held_out_queries: int
    held_out_pairs: int
    average_precision: float | None
    """The mean over the held-out queries; None if no query is held out."""
    chance: float | None
    """The mean average precision of documents in random order."""
    probabilities: Mapping[str, Any] | None = None
    """The fields of `FittedProbabilities`; None if the scores were to stay as they are."""
    what: str = RERANKER


@dataclass(frozen=True, repr=False)
class EncoderReport(Readable):
    """A finished encoder."""

    out: Path
    metrics: EncoderMetrics
    reused: bool
    """Whether it was already finished, so that nothing was computed."""

    def __repr__(self) -> str:
        score = ": ".join(self._score())
        return f"Encoder {self.out}, from {self.metrics.base}{f'; {score}' if score else ''}"

    def as_text(self) -> str:
        """Returns the folder of the model, how it was trained, and its score before and after."""
        rows = [["model", str(self.out)], ["base", self.metrics.base], ["trained", self.metrics.trained]]
        if score := self._score():
            rows.append(score)
        return "\n".join(text_table(rows, left=(0, 1)))

    def _score(self) -> list[str]:
        """Returns the measure and its values before and after; nothing if the model was never scored."""
        metrics, measure = self.metrics, self.metrics.measure
        if measure is None:
            return []
        before, best = (
            next(f"{means[measure]:.4f}" for step, means in metrics.scores if step == wanted)
            for wanted in (metrics.scores[0][0], metrics.best_step)
        )
        return [f"dev {measure}", f"{before} before, {best} after step {metrics.best_step}"]


@dataclass(frozen=True, repr=False)
class PretrainReport(Readable):
    """A finished pretraining."""

    out: Path
    metrics: PretrainMetrics
    reused: bool
    """Whether it was already finished, so that nothing was computed."""


@dataclass(frozen=True, repr=False)
class RerankerReport(Readable):
    """A finished reranker."""

    out: Path
    model: str
    """Its fingerprint, by which runs and scores name it."""
    metrics: RerankerMetrics
    reused: bool
    """Whether it was already finished, so that nothing was computed."""


def write_card(folder: Path, title: str, metrics: Metrics) -> None:
    """Writes metrics.json, README.md and, for an encoder, the chart of its loss into a model's folder."""
    (folder / METRICS).write_text(metrics.json(), "utf-8")
    if panels := _panels(metrics):
        draw(title, panels, folder / f"{CURVE}.png", folder / f"{CURVE}.svg")
    (folder / "README.md").write_text(card(title, metrics), "utf-8")


def card(title: str, metrics: Metrics) -> str:
    """Returns the README.md of a trained model, with the front matter that model hubs read."""
    task, tags = "sentence-similarity", ["feature-extraction", "miner"]
    if isinstance(metrics, EncoderMetrics):
        parts = _encoder_parts(title, metrics)
    elif isinstance(metrics, PretrainMetrics):
        tags.insert(1, "tsdae")
        parts = _pretrain_parts(title, metrics)
    else:
        assert isinstance(metrics, RerankerMetrics)
        task, tags = "text-ranking", ["cross-encoder", "reranker", "miner"]
        parts = _reranker_parts(title, metrics)
    base = "" if Path(metrics.base).exists() else metrics.base  # a local folder means nothing on a hub
    head = model_front_matter(base, task, tags)
    return "\n\n".join([head, f"# {printable(title)}", *parts]) + "\n"


def _panels(metrics: Metrics) -> list[Panel]:
    """The charts of an encoder: the loss, and the dev measure if there is one."""
    if not isinstance(metrics, EncoderMetrics | PretrainMetrics):
        return []
    steps, losses = [list(column) for column in zip(*metrics.losses, strict=True)] or [[], []]
    label = "loss" if isinstance(metrics, EncoderMetrics) else "loss per token"
    panels = [Panel("step", label, [Curve("loss", steps, losses)])]
    if isinstance(metrics, EncoderMetrics) and metrics.measure is not None:
        steps = [step for step, _ in metrics.scores]
        values = [means[metrics.measure] for _, means in metrics.scores]
        panels.append(Panel("step", f"dev {metrics.measure}", [Curve(metrics.measure, steps, values)]))
    return panels


def _encoder_parts(title: str, metrics: EncoderMetrics) -> list[str]:
    loss, config = metrics.config["loss"], EncoderConfig(**metrics.config)
    columns = ", ".join(map(printable, metrics.columns))
    rows = {name: value for name, value in metrics.config.items() if config.reads(name)}
    return [
        f"An encoder trained with miner from {_code(metrics.base)} on {metrics.rows:,} rows ({columns}) of "
        f"{_code(metrics.origin)}, loss `{loss}`: {LOSSES[loss].summary}.",
        _encoder_usage(title, f"miner evaluate {quote(title)} STORE --split test"),
        _scores(metrics),
        "## Settings",
        f"Trained in {metrics.seconds:.0f} s, computed in {metrics.dtype}: {metrics.trained}. "
        f"Fingerprint of rows, base and settings: `{metrics.fingerprint[:16]}`.",
        _settings(rows),
    ]


def _scores(metrics: EncoderMetrics) -> str:
    curve = f"![training curve]({CURVE}.png)"
    if metrics.measure is None:
        return f"## Quality\n\nThe model was not scored during training: see `miner evaluate`.\n\n{curve}"
    names = list(metrics.scores[0][1])
    rows = [
        [f"{step} (kept)" if step == metrics.best_step else step, *(f"{means[name]:.4f}" for name in names)]
        for step, means in metrics.scores
    ]
    about = f"On {metrics.dev}; step 0 is the base. The model with the best {metrics.measure} was kept."
    scores = _table(("step", *names), rows, range(len(names) + 1))
    return "\n\n".join(["## Quality", about, scores, curve])


def _pretrain_parts(title: str, metrics: PretrainMetrics) -> list[str]:
    config = metrics.config
    without = f"; queries judged in split `{config['without']}` are left out" if config["without"] else ""
    return [
        f"An encoder pretrained with miner from {_code(metrics.base)} on text without labels: "
        f"{metrics.documents:,} documents, {metrics.queries:,} queries, no relevance judgments{without}.",
        "TSDAE (Wang, Reimers, Gurevych, Findings of EMNLP 2021): each word of a text is deleted with "
        f"probability {config['deletion']}. A decoder that shares the encoder's weights rebuilds the text "
        "and sees only the vector of the words that are left. This adapts a model to a domain; training on "
        "pairs comes after it.",
        _encoder_usage(title, f"miner train TRIPLETS OUT --base {quote(title)}"),
        "## Training",
        f"{counted(metrics.steps, 'step')} in {metrics.seconds:.0f} s, computed in {metrics.dtype}. "
        f"Fingerprint of texts, base and settings: `{metrics.fingerprint}`.",
        _settings(metrics.config),
        f"![training curve]({CURVE}.png)",
    ]


def _encoder_usage(title: str, command: str) -> str:
    return f"""## Use

    miner mine STORE --encoder {quote(title)}
    {command}

```python
from sentence_transformers import SentenceTransformer

SentenceTransformer({json.dumps(title, ensure_ascii=False)}).encode(["a text"])
```"""


def _reranker_parts(title: str, metrics: RerankerMetrics) -> list[str]:
    config = RerankerConfig(**metrics.config)
    return [
        "A cross-encoder that scores how well a document answers a query. It was trained with miner from "
        f"{_code(metrics.base)} on judged positives, mined negatives and random negatives.",
        _reranker_usage(title, config.folds),
        _average_precision(metrics),
        _probabilities(config, metrics.probabilities),
        _training_data(config, metrics),
        _reranker_settings(config, metrics),
    ]


def _reranker_usage(title: str, folds: int) -> str:
    command = f"## Use\n\n    miner mine STORE --reranker {quote(title)}\n\n"
    if folds:
        return (
            f"{command}{folds} models under one name: the model of a query's fold scores it, and never "
            f"trained on it. Each folder `fold-0` to `fold-{folds - 1}` is a sentence-transformers "
            "CrossEncoder by itself."
        )
    return f"""{command}```python
from sentence_transformers import CrossEncoder

CrossEncoder({json.dumps(title, ensure_ascii=False)}).predict([("a query", "a document")])
```"""


def _average_precision(metrics: RerankerMetrics) -> str:
    if metrics.average_precision is None:
        return "## Quality\n\nNo query is held out, so the quality is unknown."
    return f"""## Quality

Average precision on held-out queries: **{metrics.average_precision:.4f}**
(random order: {metrics.chance:.4f}).

No model trained on the held-out queries ({metrics.held_out_queries}). The judged positives of each are ranked
against its mined and random negatives ({metrics.held_out_pairs} pairs); the figure is the mean of the
average precisions. Mined negatives are unjudged, and some are relevant: a perfect model stays below 1."""


def _probabilities(config: RerankerConfig, fitted: Mapping[str, Any] | None) -> str:
    if fitted is None:
        return "## Probabilities\n\nA score orders documents and is not a probability."
    if fitted["reason"]:
        return f"## Probabilities\n\nA score orders documents and is not a probability: {fitted['reason']}."
    bins = [(pairs, f"{mean:.3f}", f"{share:.3f}") for pairs, mean, share in fitted["table"]]
    scalings = ", ".join(f"{s['slope']:.3f} · logit {s['intercept']:+.3f}" for s in fitted["scalings"])
    errors = [
        ("Brier score", *(f"{value:.4f}" for value in fitted["brier"])),
        (
            f"expected calibration error, {len(bins)} bins of equal size",
            *(f"{value:.4f}" for value in fitted["calibration_error"]),
        ),
    ]
    return f"""## Probabilities

A score of 0.8 means: about 8 in 10 pairs with that score are positives, if they are drawn like the training
pairs (1 judged positive : {config.mined} mined : {config.random} random negatives). Pairs drawn otherwise,
such as the first ranks of a retriever, have another share of positives: their order stays right, their scores
shift.

Platt scaling within the last layer ({scalings}), fitted on {fitted["pairs"]} held-out pairs,
{fitted["positives"]} of them positives. The errors are measured on each part of the queries with a
scaling fitted on the others:

{_table(("", "before", "after"), errors, (1, 2))}

{_table(("pairs", "mean score", "positives"), bins, (0, 1, 2))}"""


def _training_data(config: RerankerConfig, metrics: RerankerMetrics) -> str:
    rows = [
        (f"positives, of {metrics.queries} queries of split {_code(config.split)}", metrics.positives),
        ("mined negatives", metrics.mined),
        ("random negatives", metrics.random),
    ]
    return f"""## Training data

{_table(("", "pairs"), rows, (1,))}

Each positive has {config.mined} negatives drawn from BM25's ranks {config.skip_top + 1} to {config.depth}
(the first {config.skip_top} are left out, because most unjudged positives are there) and {config.random}
drawn from all documents. No negative is judged positive in any split, has the text of a positive or of the
query, has the query's label, or is empty. If too few documents are left, a positive has fewer negatives.
{_labels_of(config)}
Content: documents `{metrics.data["documents"]}`, queries `{metrics.data["queries"]}`, judgments
`{metrics.data["judgments"]}`. Fingerprint of data, base and settings: `{metrics.fingerprint}`."""


def _labels_of(config: RerankerConfig) -> str:
    """The labels that the model learned, as a paragraph; nothing for loss bce."""
    if config.loss == BCE:
        return ""
    if config.teacher is None:
        return "\nThe labels are the grades of the judgments; negatives have 0.\n"
    return f"\nThe labels of all pairs are the scores of the reranker {_code(config.teacher)}.\n"


def _reranker_settings(config: RerankerConfig, metrics: RerankerMetrics) -> str:
    first, last = (fmean(losses[tenth] for losses in metrics.losses) for tenth in (0, -1))
    rows = {
        **config.identity(),
        "computed in": metrics.dtype,
        "steps": metrics.steps,
        "loss, first and last tenth": f"{first:.4f}, {last:.4f}",
        **{name: version(name) for name in PACKAGES},
    }
    loss = f"Loss `{config.loss}`: {RERANKER_LOSSES[config.loss]}. AdamW, linear warm-up and decay."
    return f"## Training\n\n{loss}\n\n{_settings(rows)}"


def _settings(values: Mapping[str, Any]) -> str:
    """A table of settings, without those that are None or empty."""
    shown = {
        name: ", ".join(map(str, value)) if isinstance(value, tuple | list) else value
        for name, value in values.items()
        if value is not None and value not in ((), [])
    }
    rows = list(shown.items())
    return _table(("setting", "value"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    return "\n".join(markdown_table(head, cells, right))


def _code(name: str) -> str:
    """A name as code in Markdown, on one line."""
    return f"`{printable(name).replace('`', chr(39))}`"
