"""Markdown tables of what was measured on recurrent networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tables import Record, counted, number, read, table, threads

# Mean and standard deviation of the test accuracy in percent over five runs: Table 1 of "Direct Feedback Alignment for
# Recurrent Neural Networks". Its GRU resets the state before the matrix product.
_PAPER: dict[tuple[str, str, str], str] = {
    ("strawberry", "gru-before", "dfa"): "79.73 ± 1.23",
    ("strawberry", "gru-before", "backprop"): "92.05 ± 2.54",
    ("strawberry", "rnn", "dfa"): "67.84 ± 2.66",
    ("strawberry", "rnn", "backprop"): "79.08 ± 4.18",
    ("libras", "gru-before", "dfa"): "67.50 ± 3.68",
    ("libras", "gru-before", "backprop"): "80.83 ± 9.19",
    ("libras", "rnn", "dfa"): "47.92 ± 3.3",
    ("libras", "rnn", "backprop"): "54.30 ± 18.32",
    ("ecg200", "gru-before", "dfa"): "80.6 ± 2.25",
    ("ecg200", "gru-before", "backprop"): "82.10 ± 1.14",
    ("ecg200", "rnn", "dfa"): "78.2 ± 1.47",
    ("ecg200", "rnn", "backprop"): "83.30 ± 2.1",
    ("row-mnist", "gru-before", "dfa"): "72.49 ± 1.1",
    ("row-mnist", "gru-before", "backprop"): "99.23 ± 0.03",
    ("row-mnist", "rnn", "dfa"): "87.48 ± 0.74",
    ("row-mnist", "rnn", "backprop"): "96.69 ± 0.24",
}
_CELLS = ("rnn", "gru-before", "gru", "lstm")
_MIB = 2**20
_OWN_CELL = "reset before"
_OWN_CELL_CAPTION = ' "reset before" is `fa.nn.GRU(reset="before")`, whose forward torch has no operation for.'


class _Case(NamedTuple):
    """One rule in one run of `feedalign compare`."""

    data: str
    cell: str
    network: str
    rule: str
    run: Record
    summary: Record


def paper(record: Record) -> str:
    """Render runs on the paper's data sets: our accuracies beside the paper's."""
    head = ("data", "network", "rule", "rate", "epochs", "trials", "accuracy (%)", "chosen epoch", "largest class")
    cases = sorted(_cases(record), key=_place)
    rows = [
        (
            case.data,
            f"`{case.network}`",
            case.rule,
            f"{case.run['settings'][case.rule]['learning_rate']:g}",
            str(case.run["config"]["schedule"]["epochs"]),
            str(case.summary["num_trials"]),
            _accuracy(case.summary, "test_score"),
            _accuracy(case.summary, "test_score_chosen"),
            _largest_class(case.run),
            _of_paper(case),
        )
        for case in cases
    ]
    return f"{table((*head, 'paper (%)'), rows)}\n\n{_paper_caption(cases)}"


def _paper_caption(cases: list[_Case]) -> str:
    return (
        "Test accuracy after the last epoch, and after the epoch with the lowest error on the validation part, where "
        "the data set has one: mean ± standard deviation over trials. Largest class: what always naming the most "
        "frequent class of the training part reaches. The paper's are means over 5 runs; in parentheses where the "
        "paper's cell is another than the network's. Adam, gradients clipped at norm "
        f"{_all_of(cases, lambda case: case.run['config']['clip'])}, "
        f"PyTorch {_all_of(cases, lambda case: case.run['environment']['torch'])}, "
        f"{_all_of(cases, lambda case: threads(case.run['environment']))} of a CPU."
    )


def forecasts(record: Record) -> str:
    """Render forecasting runs: squared errors of each rule and discount, and of what needs no learning."""
    unit = "mean squared error"
    head = ("network", "rule", "gamma", "epochs", "trials", unit, "chosen epoch")
    cases = _cases(record)
    rows = [
        (
            f"`{case.network}`",
            case.rule,
            number(case.run["settings"][case.rule].get("gamma"), 2),
            str(case.run["config"]["schedule"]["epochs"]),
            str(case.summary["num_trials"]),
            _spread(case.summary["test_score"], 4),
            _spread(case.summary["test_score_chosen"], 4),
        )
        for case in cases
    ]
    trivial = {what: error for case in cases for what, error in case.run["trivial"].items()}
    rows += [("–", f"no learning: {what}", "–", "–", "–", _spread(error, 4), "–") for what, error in trivial.items()]
    return (
        f"{table(head, rows)}\n\n`{_all_of(cases, lambda case: case.data)}`: {unit} on the test part after the last "
        "epoch, and after the epoch with the lowest error on the validation part, mean ± standard deviation over "
        f"trials. PyTorch {_all_of(cases, lambda case: case.run['environment']['torch'])}, "
        f"{_all_of(cases, lambda case: threads(case.run['environment']))} of a CPU."
    )


def _cases(record: Record) -> list[_Case]:
    """Every rule of every run; the record is one `results.json`, or holds several."""
    return [
        _Case(run["config"]["data"], _cell_of(network), network, summary["rule"], run, summary)
        for run in map(read, record.get("runs", [record]))
        for network in [run["config"]["network"]]
        for summary in run["summary"]
    ]


def _cell_of(network: str) -> str:
    """The cell of a network's name: "gru-before" of "gru-before-512-x2"."""
    return max((cell for cell in _CELLS if network.startswith(f"{cell}-")), key=len, default=network)


def _place(case: _Case) -> tuple[int, int, str, int]:
    """Where a case stands: data sets as in the paper, cells, networks, DFA before backprop."""
    datasets = list(dict.fromkeys(data for data, _, _ in _PAPER))
    of_data = datasets.index(case.data) if case.data in datasets else len(datasets)
    of_cell = _CELLS.index(case.cell) if case.cell in _CELLS else len(_CELLS)
    return of_data, of_cell, case.network, int(case.rule == "backprop")


def _accuracy(summary: Record, measure: str) -> str:
    error = summary.get(measure)
    if error is None:
        return "–" if summary["num_finished"] else "no trial finished"
    lost = summary["num_trials"] - summary["num_finished"]
    note = f" ({lost} of {summary['num_trials']} not finished)" if lost else ""
    return _spread({**error, "mean": 100 - error["mean"]}, 2) + note


def _largest_class(run: Record) -> str:
    error = run["trivial"].get("most frequent class")
    return "–" if error is None else number(100 - error["mean"], 2)


def _of_paper(case: _Case) -> str:
    found = _PAPER.get((case.data, case.cell, case.rule))
    if found is not None:
        return found
    other = _PAPER.get((case.data, "gru-before", case.rule)) if case.cell == "gru" else None
    return "–" if other is None else f"({other})"


def _spread(error: Record | None, digits: int) -> str:
    if error is None:
        return "–"
    return f"{error['mean']:.{digits}f}" + ("" if error["std"] is None else f" ± {error['std']:.{digits}f}")


def _all_of(cases: list[_Case], value: Callable[[_Case], Any]) -> str:
    """What holds of all cases, or the few things that hold of some."""
    return " or ".join(dict.fromkeys(str(value(case)) for case in cases))


def step_times(record: Record) -> str:
    """Render step times over those of backprop through time, by layer and shape."""
    cases = record["step_time"]
    shapes = list(dict.fromkeys(case["shape"] for case in cases))
    found = {(case["cell"], case["shape"]): case["ratio"] for case in cases}
    rows = [
        (f"nn.{cell.upper()}: {name}", *(number(found[cell, shape].get(name), 2) for shape in shapes))
        for cell, name in _contestants(cases)
        if name != "bptt"
    ]
    head = ("step time over that of backprop through time", *shapes)
    has_own_cell = any(name.endswith(_OWN_CELL) for _, name in _contestants(cases))
    caption = _bench_caption(record) + (_OWN_CELL_CAPTION if has_own_cell else "")
    return f"{table(head, rows)}\n\n{caption}"


def step_memory(record: Record) -> str:
    """Render the most memory that a step takes, by layer and shape."""
    cases = record["step_time"]
    shapes = list(dict.fromkeys(case["shape"] for case in cases))
    found = {(case["cell"], case["shape"]): case["memory"] for case in cases}
    rows = [
        (f"nn.{cell.upper()}: {name}", *(f"{found[cell, shape][name] / _MIB:.1f}" for shape in shapes))
        for cell, name in _contestants(cases)
    ]
    return table(("peak memory of a step (MiB)", *shapes), rows)


def backward_times(record: Record) -> str:
    """Render the time of the backward pass against the number of steps, the figure first."""
    cases = record["backward_time"]
    lengths = cases[0]["lengths"]
    rows = [
        (f"nn.{case['cell'].upper()}: {name}", *(number(time, 2) for time in times))
        for case in cases
        for name, times in case["ms"].items()
    ]
    figure = "![Time of the backward pass against the number of steps](figures/backward-time.svg)"
    return f"{figure}\n\n{table(('backward pass (ms)', *(f'T={length}' for length in lengths)), rows)}"


def streaming_memory(record: Record) -> str:
    """Render the most memory that a step takes at two lengths."""
    cases = record["streaming_memory"]
    lengths = list(next(iter(cases[0]["bytes"].values())))
    rows = [
        (f"nn.{case['cell'].upper()}: {name}", *(f"{sizes[length] / _MIB:.1f}" for length in lengths))
        for case in cases
        for name, sizes in case["bytes"].items()
    ]
    head = (f"peak memory of a step (MiB), {cases[0]['shape']}", *(f"T={length}" for length in lengths))
    return table(head, rows)


def _contestants(cases: list[Record]) -> list[tuple[str, str]]:
    """Every cell with each of its contestants."""
    return list(dict.fromkeys((case["cell"], name) for case in cases for name in case["ratio"]))


def _bench_caption(record: Record) -> str:
    return (
        f"Medians of {counted(record['rounds'], 'step')}, interleaved in one process, over those of the same layer of "
        f"`torch.nn` without a rule: one layer, a linear readout of the last step, fused Adam, {record['dtype']}, "
        f"PyTorch {record['torch']}, {threads(record)} of a CPU."
    )


FROM_RECORDS: dict[str, Callable[[Record], str]] = {
    "rnn-paper": paper,
    "mackey-glass": forecasts,
    "bench-recurrent": step_times,
    "bench-recurrent#memory": step_memory,
    "bench-recurrent#backward": backward_times,
    "bench-recurrent#streaming": streaming_memory,
}
"""How each record, or part of one, is rendered."""
