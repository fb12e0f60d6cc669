"""Markdown tables made from the rules' declared facts and from recorded results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import feedalign as fa

Record = dict[str, Any]

RESULTS_FORMAT = 2
"""The layout of `results.json` that is read, as `docs/command-line.md` tells it."""

# What a benchmark's contestants are called in the table, in its order.
_CONTESTANTS = ("dfa", "dfa by hand", "drtp streaming", "fa", "shallow")


def rules_in_short() -> str:
    """One line per rule: its name, what it does, where it comes from."""
    return table(
        ("rule", "what it does", "paper"),
        [(f"`fa.{rule.__name__}()`", _summary(rule), rule.paper) for rule in fa.ALL_RULES],
    )


def rules_in_full() -> str:
    """One line per rule with its signal and all declared facts; names link to the reference."""
    head = ("rule", "name", "teaching signal", "waits for the output", "reads forward weights", "unbiased", "paper")
    return table(
        head,
        [
            (
                f"{{py:class}}`~feedalign.{rule.__name__}`",
                f"`{rule.name}`",
                f"`{rule.signal}`",
                _yes(rule.update_locked),
                _yes(rule.weight_transport),
                _yes(rule.unbiased),
                rule.paper,
            )
            for rule in fa.ALL_RULES
        ],
    )


def _summary(rule: type[fa.Rule]) -> str:
    """The first paragraph of a docstring, as one line."""
    sentence = " ".join((rule.__doc__ or "").strip().split("\n\n")[0].split())
    return sentence.rstrip(".")


def comparison(record: Record) -> str:
    """Render the `results.json` of a `feedalign compare`: error, angles and cost of each rule."""
    summaries, metric = read(record)["summary"], record["metric"]
    layers = _layers_with_angles(record)
    cost = {entry["rule"]: entry for entry in record["cost"]}
    digits = metric["digits"]
    head = ["rule", f"test {heading(metric)}", "over the last 10 epochs"]
    head += [f"angle, layer {layer}" for layer in layers] + ["step time", "peak memory"]
    rows = [
        (
            entry["rule"],
            _spread(entry, "test_score", digits),
            _spread(entry, "test_score_last_epochs", digits),
            *(number(entry["angles"].get(layer), 0, "°") for layer in layers),
            number(cost.get(entry["rule"], {}).get("time_ratio"), 2),
            number(cost.get(entry["rule"], {}).get("memory_ratio"), 2),
        )
        for entry in summaries
    ]
    return f"{table(head, rows)}\n\n{_comparison_caption(record)}"


def _comparison_caption(record: Record) -> str:
    config, where = record["config"], record["environment"]
    trials, epochs, metric = config["trials"], config["schedule"]["epochs"], record["metric"]["name"]
    over = f"mean ± standard deviation over {trials} trials" if trials > 1 else "one trial"
    return (
        f"`{config['data']}`, network `{config['network']}`, {counted(epochs, 'epoch')}, test {metric} after the last "
        f"one and on average over the last 10 (or all, if fewer), {over}. Angles are between the rule's and backprop's "
        "gradients at each layer's output, after training; "
        f"step time and peak memory are over backprop's. PyTorch {where['torch']}, "
        f"{threads(where) + ' of a CPU' if where['device'] == 'cpu' else where['device_name']}."
    )


def read(record: Record) -> Record:
    """A record of `feedalign compare`, if its layout is the one that is read here.

    Args:
        record: What a `results.json` holds.

    Returns:
        The same.

    Raises:
        ValueError: It has another layout.
    """
    if record.get("format") != RESULTS_FORMAT:
        raise ValueError(
            f"The record has format {record.get('format')}, and format {RESULTS_FORMAT} is read: record the run again "
            "with this version of feedalign compare."
        )
    return record


def heading(metric: Record) -> str:
    """The name of a metric with its unit."""
    return f"{metric['name']} ({metric['unit']})" if metric["unit"] else str(metric["name"])


def threads(where: Record) -> str:
    """How many threads of the machine worked, in words."""
    return counted(where["num_threads"], "thread")


def counted(count: int, noun: str) -> str:
    """A number and its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _layers_with_angles(record: Record) -> list[str]:
    """Layers at which some rule has an angle that is not zero: the output layer has none."""
    # A rule none of whose trials finished has no layers: the order is that of all rules together.
    in_order = dict.fromkeys(layer for entry in record["summary"] for layer in entry["angles"])
    angles = {layer: [entry["angles"].get(layer) for entry in record["summary"]] for layer in in_order}
    return [layer for layer in in_order if any(angle is not None and angle > 0.05 for angle in angles[layer])]


def _spread(entry: Record, measure: str, digits: int) -> str:
    error = entry[measure]
    if error is None:
        return "no trial finished"
    std = "" if error["std"] is None else f" ± {error['std']:.{digits}f}"
    lost = entry["num_trials"] - entry["num_finished"]
    return f"{error['mean']:.{digits}f}{std}" + (f" ({lost} of {entry['num_trials']} not finished)" if lost else "")


def bench(record: Record) -> str:
    """Render the record of `make bench`: step times over backprop's, and peak activation memory."""
    cases = record["step_time"]
    names = [name for name in _CONTESTANTS if name in cases[0]["ratio"]]
    head = ["step time over backprop's", *(case["case"] for case in cases)]
    rows = [(name, *(f"{case['ratio'][name]:.2f}" for case in cases)) for name in names]
    rows += [("bound: backprop less its `delta @ W` products", *(f"{case['bound']:.2f}" for case in cases))]
    memory = record["activation_memory"]
    depths = list(next(iter(memory.values())))
    memory_rows = [(name, *(f"{levels[depth] / 2**20:.0f} MiB" for depth in depths)) for name, levels in memory.items()]
    return "\n\n".join(
        [
            table(head, rows),
            table(["peak activation memory", *(f"{depth} layers" for depth in depths)], memory_rows),
            _bench_caption(record),
            *([_learned(record["learned"])] if "learned" in record else []),
        ]
    )


def _learned(cases: list[Record]) -> str:
    """Step time and peak memory of learned feedback and forward gradients over backprop's, and the bound of FDFA."""
    head = ["step time over backprop's (peak memory)", *(case["case"] for case in cases)]
    names = [name for name in cases[0]["ratio"] if name != "backprop"]
    rows = [(name, *(f"{case['ratio'][name]:.2f} ({case['memory'][name]:.2f})" for case in cases)) for name in names]
    rows += [
        ("bound of fdfa: backprop less its `delta @ W`, plus one tangent", *(number(c["bound"], 2) for c in cases))
    ]
    return f"{table(head, rows)}\n\nThe same machine, relu, fused Adam."


def _bench_caption(record: Record) -> str:
    return (
        f"Medians of {record['rounds']} steps, interleaved in one process: {record['activation']}, "
        f"{record['optimizer']}, {record['dtype']}, PyTorch {record['torch']}, "
        f"{threads(record)} of a CPU."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        head: The headings.
        rows: The cells of each row.

    Returns:
        The table.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None, digits: int, unit: str = "") -> str:
    """A number with so many digits behind the point; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


FROM_RECORDS: dict[str, Callable[[Record], str]] = {
    "digits": comparison,
    "mnist-fc1-500": comparison,
    "fashion-mlp2-800": comparison,
    "cifar10-cnn": comparison,
    "mnist-mlp4-800": comparison,
    "bench": bench,
}
"""How each record of docs/records is rendered, by its file's name."""
