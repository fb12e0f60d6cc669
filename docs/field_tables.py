"""Markdown tables of graphs, recommenders and scenes: rules side by side, and the paper's numbers where it has some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tables import Record, heading, number, read, table, threads

_RULES = ("backprop", "dfa", "shallow")

# Tables 3, 4 and A.4 of "Direct Feedback Alignment Scales to Modern Deep Learning Tasks and Architectures", by data,
# network and metric, for backprop, DFA and shallow training.
_PAPER: Mapping[tuple[str, str, str], tuple[str, ...]] = {
    ("cora", "cheb", "accuracy"): ("79.2", "75.4", "23.3"),
    ("cora", "gcn", "accuracy"): ("80.1", "79.9", "37.0"),
    ("cora", "spline", "accuracy"): ("81.0", "77.7", "39.6"),
    ("cora", "gat", "accuracy"): ("82.6", "80.6", "59.4"),
    ("cora", "dna", "accuracy"): ("84.6", "82.9", "30.2"),
    ("citeseer", "cheb", "accuracy"): ("69.5", "67.6", "27.4"),
    ("citeseer", "gcn", "accuracy"): ("71.6", "69.4", "33.8"),
    ("citeseer", "spline", "accuracy"): ("70.0", "69.8", "30.1"),
    ("citeseer", "gat", "accuracy"): ("72.0", "71.2", "49.8"),
    ("citeseer", "dna", "accuracy"): ("73.4", "70.8", "24.0"),
    ("pubmed", "cheb", "accuracy"): ("79.5", "75.7", "37.6"),
    ("pubmed", "gcn", "accuracy"): ("78.8", "77.8", "44.8"),
    ("pubmed", "spline", "accuracy"): ("77.5", "77.2", "44.2"),
    ("pubmed", "gat", "accuracy"): ("77.7", "77.1", "67.8"),
    ("pubmed", "dna", "accuracy"): ("87.2", "79.9", "42.2"),
    ("cora", "gae", "AUC"): ("0.918", "0.900"),
    ("cora", "gae", "AP"): ("0.918", "0.900"),
    ("citeseer", "gae", "AUC"): ("0.886", "0.879"),
    ("citeseer", "gae", "AP"): ("0.895", "0.889"),
    ("pubmed", "gae", "AUC"): ("0.967", "0.945"),
    ("pubmed", "gae", "AP"): ("0.966", "0.945"),
}


# Its Table A.2.
_PAPER_COSINES: Mapping[str, str] = {
    "cheb": "0.87 (0.12)",
    "gcn": "0.77 (0.25)",
    "spline": "0.56 (0.22)",
    "gat": "0.63 (0.18)",
    "dna": "0.92 (0.30)",
}


class _Row(NamedTuple):
    """One metric of one run of `feedalign compare`."""

    run: Record
    metric: Record
    is_main: bool

    @property
    def place(self) -> tuple[str, str, str]:
        """What tells the row from others."""
        return self.run["config"]["data"], self.run["config"]["network"], self.metric["name"]

    def cell(self, rule: str) -> str:
        """The score of a rule at the epoch that counts, and how many trials did not make it."""
        summaries = {summary["rule"]: summary for summary in self.run["summary"]}
        if rule not in summaries:
            return "–"
        summary, suffix = summaries[rule], "_chosen" if self.run["judged_at"] == "chosen" else ""
        scores = summary[f"test_score{suffix}"] if self.is_main else summary[f"other_scores{suffix}"]
        found = scores if self.is_main else scores.get(self.metric["name"])
        lost = summary["num_trials"] - summary["num_finished"]
        note = f" ({lost} of {summary['num_trials']} not finished)" if lost else ""
        return ("no trial finished" if lost else "–") if found is None else _spread(found, self.metric["digits"]) + note

    def paper(self, rule: str) -> str:
        """The paper's score of a rule, in parentheses; nothing where it has none."""
        of_paper = dict(zip(_RULES, _PAPER.get(self.place, ()), strict=False))
        return f" ({of_paper[rule]})" if rule in of_paper else ""


def rules_side_by_side(record: Record) -> str:
    """Render runs of `feedalign compare`: a row for each data, network and metric, a column for each rule.

    Args:
        record: One `results.json`, or several joined.

    Returns:
        The table and its caption.
    """
    runs = [read(run) for run in record.get("runs", [record])]
    rows = [
        _Row(run, metric, metric is run["metric"]) for run in runs for metric in (run["metric"], *run["other_metrics"])
    ]
    has_several = len({row.metric["name"] for row in rows}) > 1
    rules = list(dict.fromkeys(rule for run in runs for rule in run["config"]["rules"]))
    head = ["data", "network", *(["metric"] if has_several else []), "epochs", "trials", *rules]
    cells = [
        [
            f"`{data}`",
            f"`{network}`",
            *([heading(row.metric)] if has_several else []),
            str(row.run["config"]["schedule"]["epochs"]),
            str(row.run["config"]["trials"]),
            *(row.cell(rule) + row.paper(rule) for rule in rules),
        ]
        for row in rows
        for data, network, _ in [row.place]
    ]
    return f"{table(head, cells)}\n\n{_caption(runs, rows)}"


def _caption(runs: list[Record], rows: list[_Row]) -> str:
    metrics = " and ".join(dict.fromkeys(heading(row.metric) for row in rows))
    judged = {run["judged_at"] for run in runs}
    at = {
        "last": "after the last epoch",
        "chosen": "after the first epoch with the best validation score",
    }
    if judged == {"last", "chosen"}:
        later = sorted({run["config"]["network"] for run in runs if run["judged_at"] == "last"})
        when = f"{at['chosen']}, of {', '.join(f'`{network}`' for network in later)} {at['last']}"
    else:
        when = at[judged.pop()]
    in_paper = "; in parentheses the paper's" if any(row.paper(rule) for row in rows for rule in _RULES) else ""
    where = " or ".join(dict.fromkeys(f"{run['environment']['torch']}, {_machine(run['environment'])}" for run in runs))
    return f"{metrics} on the test part, {when}: mean ± standard deviation over trials{in_paper}. PyTorch {where}."


def _machine(where: Record) -> str:
    return f"{threads(where)} of a CPU" if where["device"] == "cpu" else str(where["device_name"])


def _spread(score: Record, digits: int) -> str:
    return f"{score['mean']:.{digits}f}" + ("" if score["std"] is None else f" ± {score['std']:.{digits}f}")


def cosines(record: Record) -> str:
    """Render cosines between DFA's signals and backprop's, read in several ways, beside the paper's."""
    head = ["network", "paper", "as `alignment.json`", "with dropout left on", "silent nodes count as 1", "both"]
    rows = [
        [
            f"`{one['network']}`",
            _PAPER_COSINES[one["network"]],
            *(_cosine(one["readings"][how]) for how in ("plain", "dropout")),
            _cosine(one["readings"]["silent"]) + _silent_nodes(one["readings"]["silent"]),
            _cosine(one["readings"]["both"]),
        ]
        for one in record["networks"]
    ]
    epochs = " or ".join(sorted({str(one["epochs"]) for one in record["networks"]}))
    return (
        f"{table(head, rows)}\n\nCosine of {record['rule'].upper()}'s signal and backprop's at the last hidden "
        f"activation on `{record['data']}`, after {epochs} epochs of one trial: mean (standard deviation) over nodes. "
        f"With dropout left on: in backprop's reference alone. Silent: both gradients at most {record['floor']:g}. "
        f"PyTorch {record['torch']}, {threads(record)} of a CPU."
    )


def _cosine(reading: Record) -> str:
    return f"{reading['mean']:.2f} ({reading['std']:.2f})"


def _silent_nodes(reading: Record) -> str:
    count = reading["num_counted_as_1"]
    return f", {count} of {reading['num_nodes']} nodes so" if count else ""


def parity(record: Record) -> str:
    """Render AUCs on the simulated log whose signs have a mean of 0, beside the best possible."""
    rules = record["rules"]
    scores = [number(one["test_auc"], 4) for one in rules.values()]
    head = ["signs of mean 0", *rules, "best possible"]
    rates = ", ".join(f"{rate:g}" for rate in record["rates"])
    row = [f"`{record['network']}`", *scores, number(record["bayes_auc"], 4)]
    return (
        f"{table(head, [row])}\n\nAUC on the test rows of {record['rows']:,}, at the best of the rates {rates} and the "
        f"best of {record['epochs']} epochs on the validation rows, one trial each. PyTorch {record['torch']}, "
        f"{threads(record)} of a CPU."
    )


def step_costs(record: Record) -> str:
    """Render a benchmark: step times over backprop's."""
    cases = record.get("cases", [{"case": f"`{record.get('network')}`", "rules": record.get("rules")}])
    rules = [rule for rule in cases[0]["rules"] if rule != "backprop"]
    head = ["step over backprop's", *rules, "backprop, ms"]
    rows = [
        [case["case"], *(number(case["rules"][rule]["ratio"], 2) for rule in rules), _milliseconds(case)]
        for case in cases
    ]
    return (
        f"{table(head, rows)}\n\nMedians of {record['rounds']} whole training steps, interleaved in one process. "
        f"PyTorch {record['torch']}, {threads(record)} of a CPU."
    )


def _milliseconds(case: Record) -> str:
    return number(case["rules"]["backprop"]["ms"], 1)


FROM_RECORDS: dict[str, Callable[[Record], str]] = {
    "bench-nerf": step_costs,
    "bench-recommenders": step_costs,
    "cosines": cosines,
    "graphs": rules_side_by_side,
    "parity": parity,
    "recommenders": rules_side_by_side,
    "nerf": rules_side_by_side,
}
"""How each record is rendered."""
