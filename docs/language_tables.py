"""Markdown tables of what was measured on Transformers that learn a language."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tables import Record, counted, number, table, threads

# Best validation perplexity on WikiText-103 after 20 epochs, by schedule and beta2: Table 5 of "Direct Feedback
# Alignment Scales to Modern Deep Learning Tasks and Architectures", and its appendix B for shallow training.
_PAPER: dict[tuple[str, float], dict[str, str]] = {
    ("noam", 0.98): {"backprop": "34.4", "dfa-macro": "95.0", "dfa-micro": "182", "shallow": "428"},
    ("noam", 0.999): {"backprop": "29.8"},
    ("constant", 0.98): {"dfa-macro": "77.1", "dfa-micro": "166"},
    ("constant", 0.999): {"dfa-macro": "55.0", "dfa-micro": "99.9"},
    ("plateau", 0.999): {"dfa-macro": "52.0", "dfa-micro": "93.3"},
}
_SCHEDULES = {"noam": "Noam's schedule", "constant": "constant rate", "plateau": "rate times 0.2 on plateaus"}
_RULES = ("backprop", "dfa-macro", "dfa-micro", "shallow")
_MAIN = ("constant", 0.999)


def of_rules(record: Record) -> str:
    """Render the runs at the main setting: perplexities, angles and rate of each rule."""
    found = _cells(record)[_MAIN]
    head = ("rule", "learning rate", "validation perplexity", "test perplexity", "of a word", "angle, first", "last")
    rows = [
        (
            rule,
            f"{best['rate']:g}",
            number(_best_perplexity(best), 1),
            number(best["test_perplexity"], 1),
            number(_of_a_word(best["test_perplexity"], run), 0),
            *_angles(best),
        )
        for rule in _RULES
        if rule in found
        for best, run in [found[rule]]
    ]
    trivial = next((run["trivial"] for run in record["runs"] if run.get("trivial")), None)
    if trivial is not None:
        rows.append(("token frequencies", "–", *(number(trivial[part], 1) for part in ("validation", "test")), *"–––"))
    return f"{table(head, rows)}\n\n{_caption(record)}"


def of_points(record: Record) -> str:
    """Render the angles of the rules with feedback at every point, block by block."""
    found = {rule: best for rule, (best, _) in _cells(record)[_MAIN].items() if rule.startswith("dfa")}
    num_blocks = record["runs"][0]["config"]["size"]["num_layers"]
    rows = []
    for rule in [rule for rule in _RULES if rule in found]:
        degrees = [number(angle["degrees"], 0) for angle in found[rule]["angles"]]
        per_block = len(degrees) // num_blocks
        blocks = [", ".join(degrees[start : start + per_block]) for start in range(0, len(degrees), per_block)]
        rows.append((rule, *blocks))
    head = ("degrees", *(f"block {place + 1}" for place in range(num_blocks)))
    return (
        f"{table(head, rows)}\n\nAngles between the rule's signal and backprop's at each feedback point, at the best "
        "evaluation, on validation text; of `dfa-micro` behind the first normalization, the activation and the second "
        "normalization."
    )


def of_settings(record: Record) -> str:
    """Render every setting's validation perplexities beside the paper's."""
    cells = _cells(record)
    # Runs may be of different length: all are compared at the end of the shortest.
    end = min(best["evaluations"][-1]["tokens"] for found in cells.values() for best, _ in found.values())
    head = ["schedule", "beta2"]
    for rule in _RULES:
        head += [rule, "paper"]
    rows = [
        [
            _SCHEDULES[schedule],
            f"{beta2:g}",
            *(
                cell
                for rule in _RULES
                for cell in (_ours(cells.get((schedule, beta2), {}), rule, end), theirs.get(rule, "–"))
            ),
        ]
        for (schedule, beta2), theirs in _PAPER.items()
    ]
    rates = ", ".join(_rates(cells, setting) for setting in _PAPER if setting in cells)
    return (
        f"{table(head, rows)}\n\nLowest validation perplexity of a token within the first {end / 1e6:.1f} million "
        f"tokens. Learning rates: {rates}.{_if_idle(cells, end)}"
    )


def _if_idle(cells: dict[tuple[str, float], dict[str, tuple[Record, Record]]], end: int) -> str:
    """A sentence where no plateau was met, so that the schedule did nothing."""
    found = [best for (schedule, _), runs in cells.items() if schedule == "plateau" for best, _ in runs.values()]
    lowered = any(one["rate"] < best["rate"] for best in found for one in best["evaluations"] if one["tokens"] <= end)
    return " In that time no plateau was met, so that schedule never lowered its rate." if found and not lowered else ""


def of_epochs(record: Record) -> str:
    """Render how validation perplexity and rate go on over several epochs under the plateau schedule."""
    (run,) = record["runs"]
    per_epoch = run["text"]["num_tokens"]["train"]
    runs = {rule: best["evaluations"] for rule, best in run["best"].items()}
    head = ["epochs", *(f"{rule}: {what}" for rule in runs for what in ("perplexity", "rate"))]
    places = [one["tokens"] / per_epoch for one in next(iter(runs.values()))]
    rows = [
        [f"{place:.2f}", *(cell for told in runs.values() for cell in _perplexity_and_rate(told[row]))]
        for row, place in enumerate(places)
    ]
    rates = {one["rate"] for told in runs.values() for one in told}
    idle = " It stayed as it was: no two evaluations in a row were without gain." if len(rates) == 1 else ""
    return (
        f"{table(head, rows)}\n\nValidation perplexity of a token, and the learning rate behind the evaluation.{idle}"
    )


def _perplexity_and_rate(evaluation: Record) -> tuple[str, str]:
    return number(evaluation["validation_perplexity"], 1), f"{evaluation['rate']:g}"


def step_costs(record: Record) -> str:
    """Render the benchmark: step time and peak memory over backprop's."""
    cases = record["cases"]
    head = ["over backprop", *(f"{case['case']}: {what}" for case in cases for what in ("time", "memory"))]
    rows = [
        [name, *(number(case[what][name], 2) for case in cases for what in ("ratio", "memory"))]
        for name in cases[0]["ratio"]
        if name != "backprop"
    ]
    baselines = " and ".join(f"{case['backprop_ms']:.0f} ms, {case['backprop_mib']:.0f} MiB" for case in cases)
    return (
        f"{table(head, rows)}\n\nMedians of {record['rounds']} whole training steps, interleaved in one process, over "
        f"those of backprop ({baselines}); peak memory above parameters, gradients and Adam's state. "
        f"{record['optimizer']}, {record['dtype']}, PyTorch {record['torch']}, {threads(record)} of a CPU."
    )


def sample(record: Record) -> str:
    """Render what the models wrote."""
    found = _cells(record)[_MAIN]
    run = next(iter(found.values()))[1]
    lines = [f"prompt: {run['prompt']}"]
    lines += [f"{rule}: {found[rule][0]['sample']}" for rule in _RULES if rule in found]
    quoted = ["\n".join(f"> {line}" for line in text.splitlines()) for text in lines]
    return "\n>\n".join(quoted)


def _cells(record: Record) -> dict[tuple[str, float], dict[str, tuple[Record, Record]]]:
    """By setting and rule, the best run and the comparison that it belongs to."""
    cells: dict[tuple[str, float], dict[str, tuple[Record, Record]]] = {}
    for run in record["runs"]:
        settings = run["config"]["optimization"]
        of_setting = cells.setdefault((settings["schedule"], settings["beta2"]), {})
        of_setting |= {rule: (best, run) for rule, best in run["best"].items()}
    return cells


def _ours(found: dict[str, tuple[Record, Record]], rule: str, end: int) -> str:
    return number(_best_perplexity(found[rule][0], end), 1) if rule in found else "–"


def _rates(cells: dict[tuple[str, float], dict[str, tuple[Record, Record]]], setting: tuple[str, float]) -> str:
    """The learning rates of one setting, said once where all rules have the same."""
    schedule, beta2 = setting
    rates = {rule: best["rate"] for rule, (best, _) in cells[setting].items()}
    unit = " times its rate" if schedule == "noam" else ""
    if len(set(rates.values())) == 1:
        said = f"{next(iter(rates.values())):g}{unit}"
    else:
        said = ", ".join(f"{rule} {rate:g}{unit}" for rule, rate in rates.items())
    return f"{_SCHEDULES[schedule]}, beta2 {beta2:g}: {said}"


def _best_perplexity(run: Record, end: float = math.inf) -> float:
    return min(one["validation_perplexity"] for one in run["evaluations"] if one["tokens"] <= end)


def _of_a_word(perplexity: float, run: Record) -> float:
    text = run["text"]
    return math.exp(math.log(perplexity) * text["num_tokens"]["test"] / text["num_words"]["test"])


def _angles(run: Record) -> tuple[str, str]:
    degrees = [angle["degrees"] for angle in run["angles"]]
    return (number(degrees[0], 0), number(degrees[-1], 0)) if degrees else ("–", "–")


def _caption(record: Record) -> str:
    run = record["runs"][0]
    config, text, size = run["config"], run["text"], run["config"]["size"]
    tokens = text["num_tokens"]["train"]
    return (
        f"`{config['text']}`, {counted(config['epochs'], 'epoch')} of {tokens / 1e6:.1f} million tokens, vocabulary of "
        f"{text['vocab_size']:,}: {size['num_layers']} layers, {size['num_heads']} heads, width {size['width']}, "
        f"{size['inner_width']} inner units, {config['batch_size']} chunks of {size['context']} tokens per step. "
        "Perplexity of a token, the lowest on the validation books and that of the same weights on the test books; "
        "angle: degrees between the rule's signal and backprop's at the first and last feedback point. Adam, one run "
        f"each. PyTorch {run['environment']['torch']}, {threads(run['environment'])} of a CPU."
    )


FROM_RECORDS: dict[str, Callable[[Record], Any]] = {
    "language": of_rules,
    "language#angles": of_points,
    "language#settings": of_settings,
    "language#sample": sample,
    "language-epochs": of_epochs,
    "bench-transformer": step_costs,
}
"""How each record, or part of one, is rendered."""
