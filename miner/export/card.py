"""The data set card: README.md with the metadata that the Hugging Face Hub and `datasets` read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from miner.export import certificate
from miner.export.config import Plan
from miner.export.manifest import LeftOut, Manifest
from miner.export.scorer import BM25, ENCODER, RERANKER, scorer_of_manifest
from miner.models.similarity import SCORES
from miner.schema import Reason

SHOWN = 400
"""How many characters of a text the example shows."""

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")

_MEANINGS: Mapping[str, str] = {
    "selected": "a negative in this data set",
    "kept": "passed every rule; a spare",
    Reason.JUDGED_POSITIVE: "judged relevant to the query in some split",
    Reason.SAME_LABEL: "has the label of the query",
    Reason.DUPLICATE_OF_POSITIVE: "the same text as a positive, up to case and white space",
    Reason.OVERLAPS_POSITIVE: "contains a positive or is contained in one",
    Reason.IS_QUERY: "is the query itself",
    Reason.EMPTY_TEXT: "has no text",
    Reason.PROTECTED: "protected by the user",
    Reason.RANK_WINDOW: "outside the window of ranks",
    Reason.MAX_SCORE: "scored above the highest score allowed",
    Reason.MIN_SCORE: "scored below the lowest score allowed",
    Reason.ABSOLUTE_MARGIN: "scored within the absolute margin of the positive",
    Reason.RELATIVE_MARGIN: "scored within the relative margin of the positive",
    Reason.PERCENTILE: "scored above the percentile of all positives' scores",
    Reason.RELATIVE_PERCENTILE: "scored too high among the positives' scores, relative to its positive",
    Reason.DUPLICATE_OF_CANDIDATE: "a copy of a candidate of the query that ranks better",
    Reason.DOCUMENT_CAP: "its document already serves as often as allowed",
    Reason.NOT_SCORED: "it or the query's positives have no finite score",
}

_SCORES: Mapping[str, str] = {
    RERANKER: "The scores are those of the reranker `{name}`.",
    ENCODER: "The scores are {scores} of the encoder `{name}`: who learns them learns what it knows.",
    BM25: "The scores are BM25's: they count words in common, and their margins teach no more.",
}


def render(manifest: Manifest, made: Plan, example: Mapping[str, Any]) -> str:
    """Returns the card as Markdown with YAML front matter; `example` is one row of the data."""
    path = "data/*.arrow" if made.file_type == "datasets" else made.data
    parts = [
        _front_matter(manifest, made, path),
        _summary(manifest, made.form.summary),
        _example(example),
        _loading(manifest),
        _training(manifest, made, path),
        _mining(manifest),
        certificate.render(manifest["certificate"]),
        _reproduction(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(manifest: Manifest, made: Plan, path: str) -> str:
    lines = [
        f"pretty_name: {json.dumps('Hard negatives: ' + manifest['run']['name'], ensure_ascii=False)}",
        "tags:",
        "- sentence-transformers",
        "- hard-negatives",
        "task_categories:",
        f"- {made.form.task}",
        "size_categories:",
        f"- {_size(manifest['counts']['rows'])}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        f'  - split: "{manifest["split"]}"',
        f"    path: {path}",
    ]
    if manifest["file_type"] == "csv":
        # pandas would read the texts "NA" and "None" as missing values.
        lines.append("  keep_default_na: false")
    # Without them a reader infers types: a column of years would come back as numbers.
    lines += ["dataset_info:", "  features:", *_features(made.schema, "  ")]
    return "\n".join(["---", *lines, "---"])


def _features(fields: Iterable[pa.Field], indent: str) -> list[str]:
    """Returns columns as `datasets` writes features in YAML."""
    lines = []
    for field in fields:
        lines.append(f"{indent}- name: {field.name}")
        if not pa.types.is_list(field.type):
            lines.append(f"{indent}  dtype: {_dtype(field.type)}")
        elif pa.types.is_struct(field.type.value_type):
            lines += [f"{indent}  list:", *_features(field.type.value_type, f"{indent}  ")]
        else:
            lines.append(f"{indent}  list: {_dtype(field.type.value_type)}")
    return lines


def _dtype(kind: pa.DataType) -> str:
    return "float64" if pa.types.is_float64(kind) else str(kind)


def _size(rows: int) -> str:
    return _SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]


def _summary(manifest: Manifest, summary: str) -> str:
    counts, run = manifest["counts"], manifest["run"]
    return f"""# Hard negatives: {run["name"]}

Training data mined with `hardneg-miner`: {counts["rows"]:,} rows in the format \
`{manifest["format"]}`, from {counts["queries"]:,} queries of the split `{run["split"]}` with \
{counts["positives"]:,} positives and {counts["negatives"]:,} mined negatives \
(the run has {counts["triplets"]:,} triplets).

One row: {summary[0].lower()}{summary[1:]}"""


def _example(row: Mapping[str, Any]) -> str:
    shown = json.dumps(_shortened(row), ensure_ascii=False, indent=2)
    return f"```json\n{shown}\n```"


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= SHOWN else value[:SHOWN] + " …"
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _shortened(item) for key, item in value.items()}
    return value


def _loading(manifest: Manifest) -> str:
    split = manifest["split"]
    text = f"""## Load

`PATH` is this folder, or its name on the Hub.

```python
from datasets import load_dataset

train = load_dataset("PATH", split="{split}")
```"""
    if manifest["file_type"] == "datasets":
        text += """

`data` is also a folder of `Dataset.save_to_disk`:

```python
from datasets import load_from_disk

train = load_from_disk("PATH/data")
```"""
    return text


def _training(manifest: Manifest, made: Plan, path: str) -> str:
    text = made.form.scored_training if made.shape.scores else made.form.training
    parts = ["## Train", text.format(file=path, group=made.shape.negatives + 1)]
    if made.shape.scores:
        scorer = scorer_of_manifest(manifest)
        parts.append(_SCORES[scorer.kind].format(name=scorer.name, scores=SCORES[scorer.similarity]))
    return "\n\n".join(parts)


def _mining(manifest: Manifest) -> str:
    run, models = manifest["run"], manifest["models"]
    names = [f"- {kind}: `{model['name'] or model['fingerprint']}`" for kind, model in models.items()]
    asked, short = run["negatives"], manifest["shortfalls"]["queries"]
    parts = [
        f"""## How it was mined

For each of the {manifest["counts"]["mined_queries"]:,} queries with a judged positive, retrievers \
proposed candidates from the corpus. A candidate that is a positive in disguise, or that scored too \
close to the query's positives, was dropped; of the rest up to {asked} negatives were selected. Nothing \
is padded: queries with fewer than {asked}: {short:,}."""
    ]
    if names:
        parts.append("\n".join(["Models:", "", *names]))
    parts.append(_table(("candidates", "number", "meaning"), _candidates(manifest["candidates"])))
    left = manifest["left_out"]
    if left:
        parts.append("\n".join(["Left out:", "", *(f"- {LeftOut(**item)}" for item in left)]))
    parts.append(f"### Settings\n\n{_table(('setting', 'value'), _flat(run['config']))}")
    return "\n\n".join(parts)


def _candidates(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    return [(f"`{name}`", f"{number:,}", _MEANINGS.get(name, "")) for name, number in counts.items()]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, ...]]:
    """Returns settings as (dotted name, JSON value), nested ones flattened, unset ones left out."""
    rows: list[tuple[str, ...]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            rows.append((f"{prefix}{key}", f"`{_shortened(json.dumps(value, ensure_ascii=False))}`"))
    return rows


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _reproduction(manifest: Manifest) -> str:
    run = manifest["run"]
    return f"""## Reproduce

Run `{run["run_id"]}`, seed {run["seed"]}, finished {run["finished"]}. `manifest.json` holds the \
fingerprints of the data and the models, the settings, the library versions, all counts, and the \
sha256 of every data file."""
