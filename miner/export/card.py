"""The data set card: README.md with the metadata that the Hugging Face Hub and `datasets` read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Any

import pyarrow as pa

from miner.errors import counted
from miner.export import certificate, ids
from miner.export.config import Plan
from miner.export.data import Data, total_rows
from miner.export.formats import EVALUATE, TRAIN, Format
from miner.export.manifest import LeftOut, Manifest
from miner.export.teacher import BM25, ENCODER, IMPORTED, JUDGE, RERANKER, teacher_of_manifest
from miner.models.similarity import SCORES
from miner.reporting.cards import dataset_front_matter
from miner.reporting.tables import markdown_table, shortened
from miner.schema import Reason
from miner.store import scorers

SHOWN = 400
"""How many characters of a text the example and the settings show."""

MEANINGS: Mapping[str, str] = {
    "selected": "a negative in this data set",
    "kept": "passed every rule, but the query had enough negatives",
    Reason.JUDGED_POSITIVE: "judged relevant to the query in some split",
    Reason.SAME_LABEL: "has the same label as the query",
    Reason.DUPLICATE_OF_POSITIVE: "has the same text as a positive, ignoring case and white space",
    Reason.OVERLAPS_POSITIVE: "contains a positive, or a positive contains it",
    Reason.SAME_DOCUMENT: "is a chunk of the same document as a positive",
    Reason.IS_QUERY: "is the query itself",
    Reason.EMPTY_TEXT: "has no text",
    Reason.PROTECTED: "protected by the user",
    Reason.RANK_WINDOW: "ranked outside the rank window",
    Reason.MAX_SCORE: "scored above the highest score allowed",
    Reason.MIN_SCORE: "scored below the lowest score allowed",
    Reason.ABSOLUTE_MARGIN: "scored within the absolute margin of the positive",
    Reason.RELATIVE_MARGIN: "scored within the relative margin of the positive",
    Reason.PERCENTILE: "scored above the chosen percentile of all positives' scores",
    Reason.RELATIVE_PERCENTILE: "too close to the positive in percentiles of all positives' scores",
    Reason.DUPLICATE_OF_CANDIDATE: "a copy of a better-ranked candidate of the query",
    Reason.DOCUMENT_CAP: "the document is already a negative of as many queries as allowed",
    Reason.NOT_RERANKED: "the reranker did not score it: it ranks too low, or was not needed",
    Reason.NOT_JUDGED: "the judge was not asked about it",
    Reason.AGREE: "too few scorers put it below the positive",
    Reason.NOT_SCORED: "the candidate or the query's positives have no finite score",
}
"""What `selected`, `kept` and each reason mean."""

_KINDS: Mapping[str, str] = {
    **dict.fromkeys(scorers.ENCODERS, "encoder"),
    scorers.VECTORS: "vectors",
    scorers.IMPORTED: "candidates",
    RERANKER: "reranker",
    JUDGE: "judge",
}
"""What the kinds of scorers are called in a card."""
_KIND_OF_DATA = {TRAIN: "Training data", EVALUATE: "Evaluation data"}
_SCORES: Mapping[str, str] = {
    RERANKER: "The scores are those of the reranker `{name}`.",
    ENCODER: "The scores are {scores} of the encoder `{name}`: a model trained on them imitates it.",
    BM25: "The scores are BM25's: they depend only on the words that query and document share, and so do "
    "the margins that a model learns from them.",
    JUDGE: "The scores are grades from 0 to 3 by the language model `{name}`.",
    IMPORTED: "The scores are those of `{name}`, which were given.",
}


def render(manifest: Manifest, plan: Plan, data: Data) -> str:
    """Returns the card as Markdown with YAML front matter; `data` is what was written."""
    path = "data/*.arrow" if plan.file_type == "datasets" else plan.data
    loading = [_loading(manifest), _training(manifest, plan, path)]
    if plan.form.selections:
        loading = [_configs(data), *loading[1:]]
    parts = [
        _front_matter(manifest, plan, data, path),
        _summary(manifest, plan.form),
        _example(next(row for name, row in data.examples.items() if name in ("", ids.TRIPLET))),
        *loading,
        _mining(manifest),
        certificate.render(manifest["certificate"]),
        *(_further(one) for one in manifest.get("more_runs", ())),
        _reproduction(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(manifest: Manifest, plan: Plan, data: Data, path: str) -> str:
    configs, infos = [], []
    for config, splits in data.rows.items():
        name = config or _config_name(manifest)
        files = [
            {"split": split, "path": f"{config}/{split}-*.parquet" if config else path} for split in splits
        ]
        entry: dict[str, Any] = {"config_name": name, "data_files": files}
        if config:
            entry["description"] = _fingerprint(manifest, f"{config}/")
        if manifest["file_type"] == "csv":
            # pandas would read the texts "NA" and "None" as missing values.
            entry["keep_default_na"] = False
        configs.append(entry)
        # A reader that is not given the features infers types: a column of years would come back as numbers.
        infos.append({"config_name": name, "features": _features(data.schemas[config])})
    facts = {"pretty_name": f"Hard negatives: {manifest['run']['name']}", **plan.card}
    return dataset_front_matter(facts, plan.form.tasks, total_rows(data.rows), configs, infos)


def _config_name(manifest: Manifest) -> str:
    """Returns a name that other data do not have.

    datasets 5.2.0 caches the rows of a local folder with a card by the folder's last name and what the card
    says of configs and columns, not by path or content: two exports of one name would load the same rows.
    """
    return f"rows-{_fingerprint(manifest)}"


def _fingerprint(manifest: Manifest, start: str = "") -> str:
    """Returns a fingerprint of the files whose path has this start.

    A config of ids has the name that others expect, so its description has what `_config_name` has.
    """
    sums = "".join(file["sha256"] for file in manifest["files"] if file["path"].startswith(start))
    return hashlib.sha256(sums.encode()).hexdigest()[:12]


def _features(fields: Iterable[pa.Field]) -> list[dict[str, Any]]:
    """Returns columns as `datasets` writes features."""
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if not pa.types.is_list(kind):
        return {"dtype": _dtype(kind)}
    inner = kind.value_type
    return {"list": _features(inner) if pa.types.is_struct(inner) else _dtype(inner)}


def _dtype(kind: pa.DataType) -> str:
    return "float64" if pa.types.is_float64(kind) else str(kind)


def _summary(manifest: Manifest, form: Format) -> str:
    counts, run = manifest["counts"], manifest["run"]
    rows, queries = counted(counts["rows"], "row"), counted(counts["queries"], "query", "queries")
    positives, negatives = counted(counts["positives"], "positive"), counted(counts["negatives"], "negative")
    return f"""# Hard negatives: {run["name"]}

{_KIND_OF_DATA[form.use]} mined with `hardneg-miner`: {rows} in the format `{manifest["format"]}`, \
from {queries} of the split `{run["split"]}` with {positives} and {negatives} \
(the run has {counted(counts["triplets"], "triplet")}).

One row: {form.summary[0].lower()}{form.summary[1:]}"""


def _example(row: Mapping[str, Any]) -> str:
    shown = json.dumps(shortened(row, SHOWN), ensure_ascii=False, indent=2)
    return f"```json\n{shown}\n```"


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

`data` is also a folder that `Dataset.save_to_disk` wrote:

```python
from datasets import load_from_disk

train = load_from_disk("PATH/data")
```"""
    return text


def _configs(data: Data) -> str:
    """Returns a table of the configs of a data set of ids."""
    rows = [(f"`{config}`", _splits(splits), ids.MEANINGS[config]) for config, splits in data.rows.items()]
    return "\n".join(["## Configs", "", *markdown_table(("config", "rows", "a row"), rows)])


def _splits(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {number:,}" for split, number in splits.items())


def _training(manifest: Manifest, plan: Plan, path: str) -> str:
    text = plan.form.scored_training if plan.shape.scores else plan.form.training
    values = {"file": path, "group": plan.shape.negatives + 1, "split": plan.split}
    parts = [f"## {plan.form.use}", text.format(**values)]
    if plan.shape.scores or plan.form.selections:
        teacher = teacher_of_manifest(manifest)
        parts.append(_SCORES[teacher.kind].format(name=teacher.name, scores=SCORES[teacher.similarity]))
    return "\n\n".join(parts)


def _further(one: Mapping[str, Any]) -> str:
    """Returns the part of the card about the run of a further split."""
    counts, run = one["counts"], one["run"]
    left = f"\n\n{_left_out(one)}" if one["left_out"] else ""
    return f"""## Split {one["split"]}

From the run `{run["name"]}`: {counted(counts["queries"], "query", "queries")}, \
{counted(counts["triplets"], "triplet")}; {counted(one["shortfalls"]["queries"], "query", "queries")} with \
fewer negatives than the {run["negatives"]} requested. `manifest.json` has its settings and certificate.\
{left}"""


def _left_out(one: Mapping[str, Any]) -> str:
    return "\n".join(["Left out:", "", *(f"- {LeftOut(**item)}" for item in one["left_out"])])


def _mining(manifest: Manifest) -> str:
    run = manifest["run"]
    names = [f"- {_KINDS[one['kind']]}: `{one['name']}`" for one in manifest["scorers"] if "name" in one]
    wanted, short = run["negatives"], manifest["shortfalls"]["queries"]
    parts = [
        f"""## How it was mined

Retrievers proposed candidates from the corpus for each of the {manifest["counts"]["mined_queries"]:,} \
queries with a judged positive. Candidates that are copies of a positive, or that scored too close to the \
query's positives, were dropped. Up to {wanted} of the remaining ones were selected as negatives. Queries \
with fewer than {wanted} are not padded; their number is {short:,}."""
    ]
    if names:
        parts.append("\n".join(["Models:", "", *names]))
    rows = _candidates(manifest["candidates"])
    parts.append("\n".join(markdown_table(("candidates", "number", "meaning"), rows)))
    if manifest["left_out"]:
        parts.append(_left_out(manifest))
    settings = markdown_table(("setting", "value"), _flat(run["config"]))
    parts.append("\n".join(["### Settings", "", *settings]))
    return "\n\n".join(parts)


def _candidates(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    return [(f"`{name}`", f"{number:,}", MEANINGS.get(name, "")) for name, number in counts.items()]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, ...]]:
    """Returns settings as (dotted name, JSON value), nested ones flattened, unset ones left out."""
    rows: list[tuple[str, ...]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            rows.append((f"{prefix}{key}", f"`{shortened(json.dumps(value, ensure_ascii=False), SHOWN)}`"))
    return rows


def _reproduction(manifest: Manifest) -> str:
    run = manifest["run"]
    name = quote(run["name"])
    return f"""## Reproduce

Run `{run["run_id"]}`, seed {run["seed"]}, finished {run["finished"]}. `manifest.json` has the fingerprints \
of the data and the models, the settings, the library versions, all counts and the sha256 of every file.

`miner report STORE report.html --run {name}` writes all figures of the run, with charts."""
