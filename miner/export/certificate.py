"""The certificate: what the store has measured about the quality of a run, and how to measure it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from miner.errors import counted
from miner.reporting.tables import decimal, percent
from miner.store.audits import CANNOT_HIDE, last_audit
from miner.store.contamination import contamination_checks
from miner.store.corpus import provenance
from miner.store.database import Database
from miner.store.duplicates import dedup_result
from miner.store.generated import OUTCOMES
from miner.store.judges import checked_judges
from miner.store.labels import false_negative_rate_of, samples_of
from miner.store.runs import StoredRun, changed_since
from miner.store.tables import GENERATED

_SEED = 13
"""The default seed of a sample to label."""
_AUDIT = (
    "settings",
    "positives",
    "hideable",
    "cannot_hide",
    "queries",
    "single_positive_queries",
    "fallback",
    "hidden",
    "hidden_positive_rate",
    "outcomes",
    "as_mined",
    "as_audited",
    "weak_positives",
    "unknown_training",
    "calibrated_on",
    "caveat",
)


def facts(store: Database, run: StoredRun) -> dict[str, Any]:
    """Returns what was measured, JSON-able: `false_negative_rate` from labels (see
    `store.labels.false_negative_rate_of`), `audit` with the hidden-positive rate, the errors of judges,
    copies, contamination; None for what was not. And the origin of the judgments, and the commands that
    measure.
    """
    audit, copies, checks = last_audit(store, run), dedup_result(store), contamination_checks(store)
    labelled = false_negative_rate_of(store, run)
    return {
        "false_negative_rate": labelled,
        "audit": None if audit is None else {name: audit.get(name) for name in _AUDIT},
        "changed_since": changed_since(store, run),
        "judges": checked_judges(store, run) or None,
        "copies": copies,
        "contamination": checks or None,
        "judgments": provenance(store),
        "commands": {
            "false_negative_rate": _sample_command(store, run, labelled),
            "audit": _audit_command(run, audit),
            "copies": _with_settings("miner dedup STORE", copies["settings"] if copies else {}),
            "contamination": [_contamination_command(one) for one in checks]
            or ["miner contamination STORE OTHER"],
        },
    }


def _sample_command(store: Database, run: StoredRun, labelled: Mapping[str, Any] | None) -> str:
    """Returns the command that draws the sample of a false-negative rate, or any sample without one."""
    command = f"miner audit STORE --run {quote(run.name)} --label"
    if labelled is None:
        return f"{command} 200 --out sample.csv"
    pairs, seed = labelled["labels"] + labelled["unlabelled"], labelled["seed"]
    requested = next(
        (
            one.requested
            for one in samples_of(store, run)
            if one.seed == seed and min(one.requested, sum(one.strata.negatives)) == pairs
        ),
        pairs,
    )
    other_seed = "" if seed == _SEED else f" --set seed={seed}"
    return f"{command} {requested}{other_seed} --out sample.csv"


def _contamination_command(one: Mapping[str, Any]) -> str:
    settings = {name: one[name] for name in ("split", "threshold", "ngram", "contained")}
    return _with_settings(f"miner contamination STORE {quote(one['against'])}", settings)


def _with_settings(command: str, settings: Mapping[str, Any]) -> str:
    """Returns the command with the settings that are not off."""
    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    return " ".join(
        [command, *(f"--set {name}={'true' if value is True else value}" for name, value in given.items())]
    )


def _audit_command(run: StoredRun, audit: Mapping[str, Any] | None) -> str:
    command = f"miner audit STORE --run {quote(run.name)}"
    if audit is None:
        return command
    return _with_settings(command, audit["settings"])


def render(certificate: Mapping[str, Any]) -> str:
    """Returns the certificate as Markdown."""
    commands = certificate["commands"]
    parts = [
        "## Certificate",
        _false_negatives(certificate["false_negative_rate"], commands["false_negative_rate"]),
        _audit(certificate["audit"], commands["audit"]),
    ]
    if changed := certificate["changed_since"]:
        parts.append(
            f"**The store's {' and '.join(changed)} changed after this run was mined.** What follows "
            "describes the store as it is now, not these triplets. Mine again before you publish them."
        )
    if judges := certificate.get("judges"):
        parts.append(_judges(judges))
    parts += [
        _copies(certificate["copies"], commands),
        _contamination(certificate["contamination"], commands),
    ]
    return "\n\n".join([*parts, _judgments(certificate["judgments"])])


def _false_negatives(found: Mapping[str, Any] | None, command: str) -> str:
    """The share of negatives that are relevant, by labels; the labels' number and origin."""
    if found is None:
        why = f"Nobody labelled a sample of these negatives (`{command}`)."
        return f"**False-negative rate: not measured.** {why}"
    by_query = {"rate": found["per_query"], "low": found["per_query_low"], "high": found["per_query_high"]}
    origins = ", ".join(f"{number:,} by a {source}" for source, number in found["sources"].items())
    lines = [
        f"**False-negative rate: {_share(found)}** of the negatives are relevant to their query (95 % "
        f"interval {_interval(found)}); the mean over queries is {_share(by_query)} "
        f"({_interval(by_query)}). It is estimated from {counted(found['labels'], 'label')} of a random "
        f"sample of the {found['negatives']:,} negatives: {origins}. Estimator: {found['estimator']}."
    ]
    if (judge := found.get("judge")) is not None:  # older results have none
        lines.append(
            f"The grades of judge `{judge}` for {found['graded']:,} negatives serve as predictions, which "
            "the labels correct."
        )
    if judged := found["judged"]:
        lines.append(f"{judged:,} of the negatives were judged not relevant before, and count as right.")
    drawing, _, _ = command.partition(" --label ")
    return f"{' '.join(lines)} Measured with `{command}` and `{drawing} --labels sample.csv`."


def _audit(audit: Mapping[str, Any] | None, command: str) -> str:
    if audit is None:
        return f"**Hidden-positive rate: not measured** (`{command}`)."
    rate, mined = audit["hidden_positive_rate"], audit["as_mined"]
    lines = [
        f"**Hidden-positive rate: {_share(rate)}** of hidden positives were selected as negatives (95 % "
        f"interval {_interval(rate)}). Known positives were hidden ({audit['hidden']:,.0f} a time), and the "
        "run was decided again as if nobody had judged them.",
        f"Negatives per query {mined['per_query']:.2f}; coverage {percent(mined['coverage'])} (queries "
        f"with all negatives requested); mean rank {decimal(mined['rank'], 1)}, mean margin to the positives "
        f"{decimal(mined['margin'], 3)}. Positives below all negatives of their query: "
        f"{audit['weak_positives']:,}.",
    ]
    if single := audit["single_positive_queries"]:
        without = "the rules applied as usual"
        if audit["fallback"] is not None:
            without = f"margins started at {audit['fallback']}"
        lines.append(
            f"{single:,} of the {audit['queries']:,} queries have one positive; if it was hidden, {without}."
        )
    if audit["cannot_hide"]:
        reasons = "; ".join(f"{number:,} {CANNOT_HIDE[key]}" for key, number in audit["cannot_hide"].items())
        lines.append(
            f"{audit['hideable']:,} of {audit['positives']:,} positives could be hidden. "
            f"These positives cannot be hidden: {reasons}."
        )
    if calibration := audit["calibrated_on"]:
        lines.append(_calibration(calibration))
    if audit["unknown_training"]:
        lines.append(f"The training data of {' and '.join(audit['unknown_training'])} is not known.")
    return "\n\n".join([*lines, audit["caveat"], f"Measured with `{command}`."])


def _calibration(calibration: Mapping[str, Any]) -> str:
    first = (
        "`miner calibrate` chose the rules on half of these queries, so the hidden-positive rate is "
        "optimistic."
    )
    rate, run = calibration["hidden_positive_rate"], calibration["run"]
    if rate is None:
        return f"{first} Their rate on the other half was measured on another run, {run}."
    measured = f"{_share(rate)} ({_interval(rate)})"
    return f"{first} On the other half it was {measured}: `miner calibrate STORE --run {run}`."


def _share(rate: Mapping[str, Any]) -> str:
    return "not measured" if rate["rate"] is None else percent(rate["rate"], 2)


def _interval(rate: Mapping[str, Any]) -> str:
    return f"{percent(rate['low'], 2)} to {percent(rate['high'], 2)}"


def _stale(changed: list[str]) -> str:
    return f" **The store's {' and '.join(changed)} changed since: run it again.**" if changed else ""


def _copies(copies: Mapping[str, Any] | None, commands: Mapping[str, Any]) -> str:
    if copies is None:
        return f"Not checked for copies: `{commands['copies']}`."
    counts = [
        f"{copies[role]['members']:,} {role} in {counted(copies[role]['clusters'], 'cluster')}"
        for role in ("documents", "queries")
        if role in copies
    ]
    found = " and ".join(counts) or "none"
    command = f"(`{commands['copies']}`).{_stale(copies['changed_since'])}"
    return f"Copies (mining uses one document of each cluster): {found} {command}"


def _contamination(checks: list[Mapping[str, Any]] | None, commands: Mapping[str, Any]) -> str:
    if checks is None:
        command = commands["contamination"][0]
        return f"Not checked for evaluation texts in the training data (contamination): `{command}`."
    lines = []
    for one, command in zip(checks, commands["contamination"], strict=True):
        number = sum(sum(kinds.values()) for kinds in one["counts"].values())
        total = sum(one["evaluation"].values())
        removed = ", which were removed" if one["removed"] and number else ""
        lines.append(
            f"- of {one['against']}, split {one['split']}: {number:,} of {total:,} texts{removed} "
            f"(`{command}`).{_stale(one['changed_since'])}"
        )
    return "\n".join(["Evaluation texts that also occur in the store (contamination):", "", *lines])


def _judges(judges: Sequence[Mapping[str, Any]]) -> str:
    """The error of each language model that graded pairs of the run."""
    lines = []
    for one in judges:
        random = f", {one['random']:,} of them random documents" if one["random"] else ""
        kappa, precision, recall = (one[name] for name in ("kappa", "precision", "recall"))
        lines.append(
            f"- `{one['name']}`: kappa {decimal(kappa['value'], 2)} ({decimal(kappa['low'], 2)} to "
            f"{decimal(kappa['high'], 2)}), precision {_measured(precision)}, recall {_measured(recall)}, on "
            f"{one['positives']:,} known positives and {counted(one['negatives'], 'negative')}{random}."
        )
    return "\n".join(
        ["Language models that graded pairs (`miner judge`), with their 95 % intervals:", "", *lines]
    )


def _measured(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "not measured"
    return f"{percent(found['value'])} ({percent(found['low'])} to {percent(found['high'])})"


def _judgments(judgments: Mapping[str, Any]) -> str:
    lines = []
    for one in judgments["counts"]:
        relevant = "scores from 0 to 1" if one["positive"] is None else f"{one['positive']:,} relevant"
        lines.append(
            f"- {one['judgments']:,} of source `{one['source']}` in split `{one['split']}`, {relevant}"
        )
    parts = ["\n".join(["Judgments in the store:", "", *lines])]
    return "\n\n".join([*parts, *map(_generated, judgments["origins"].get(GENERATED, ()))])


def _generated(origin: Mapping[str, Any]) -> str:
    """Returns how a language model wrote queries, and what became of them."""
    dropped = "; ".join(f"{number:,} {OUTCOMES[name]}" for name, number in origin["dropped"].items())
    checked = "The search for their documents was left out."
    if origin["rank"] is not None:
        by = f" {origin['returned_by']} of" if len(origin["retrievers"]) > 1 else ""
        checked = (
            f"A query was kept if{by} {', '.join(origin['retrievers'])} returned its document at rank "
            f"{origin['rank']} or better."
        )
    return (
        f"**The language model `{origin['model']}` wrote queries from {origin['documents']:,} documents** "
        f"(`miner generate`, source `{GENERATED}`): {origin['made']:,} written, {origin['kept']:,} kept, "
        f"{origin['unknown']:,} answers that could not be read. {checked} Not kept: {dropped or 'none'}. The "
        f"instructions have the sha256 `{origin['instructions']}`."
    )
