"""Recommenders: the fully connected part alone and whole networks, DFA and shallow training against backprop."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa
from benchmarks.contestants import Step, adam
from benchmarks.interleaving import interleave
from feedalign_lab.clicks.layers import perceptron
from feedalign_lab.clicks.networks import build_network, rules_for
from feedalign_lab.clicks.training import loss_function

RULES: dict[str, fa.Rule] = {"backprop": fa.Backprop(), "dfa": fa.DFA(), "shallow": fa.Shallow()}
NETWORKS = ("deepfm", "deepcross", "afn-small")
_BATCH, _NUM_FIELDS, _CATEGORIES_OF_FIELD, _EMBEDDING = 2048, 39, 400, 10
_HIDDEN = (400, 400, 400)


def perceptron_step(rule: fa.Rule) -> Step:
    """Return a step of DeepFM's fully connected layers, their input given."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(_BATCH, _NUM_FIELDS * _EMBEDDING, generator=draws)
    torch.manual_seed(0)
    layers, width = perceptron(x.shape[1], _HIDDEN, 0.0)
    return step_of(nn.Sequential(*layers, nn.Linear(width, 1)), rule, x)


def network_step(name: str, rule: fa.Rule) -> Step:
    """Return a step of a whole network, embeddings included."""
    draws = torch.Generator().manual_seed(0)
    offsets = _CATEGORIES_OF_FIELD * torch.arange(_NUM_FIELDS)
    x = torch.randint(_CATEGORIES_OF_FIELD, (_BATCH, _NUM_FIELDS), generator=draws) + offsets
    return step_of(build_network(name, _CATEGORIES_OF_FIELD * _NUM_FIELDS, _NUM_FIELDS, seed=0), rule, x)


def step_of(model: nn.Module, rule: fa.Rule, x: Tensor) -> Step:
    """Return a whole training step of a model under a rule."""
    clicks = torch.randint(2, (len(x), 1), generator=torch.Generator().manual_seed(1)).float()
    fa.attach(model, rules_for(model, rule), example_inputs=x[:2], feedback=_feedback(rule))
    optimizer = adam(model)

    def step() -> None:
        optimizer.zero_grad()
        loss_function(model(x), clicks).backward()
        optimizer.step()

    return step


def _feedback(rule: fa.Rule) -> str | None:
    return "launay2020" if isinstance(rule, fa.DFA) else None


def measure(rounds: int) -> dict[str, Any]:
    """Time the steps of each network, interleaved in one process.

    Args:
        rounds: Steps of each contestant.

    Returns:
        For each network and rule the median of its steps, in milliseconds, and over backprop's.
    """
    cases = {"the perceptron of deepfm": {rule: perceptron_step(one) for rule, one in RULES.items()}}
    cases |= {name: {rule: network_step(name, one) for rule, one in RULES.items()} for name in NETWORKS}
    found = {name: interleave(steps, rounds) for name, steps in cases.items()}
    return {
        "batch": _BATCH,
        "fields": _NUM_FIELDS,
        "categories": _CATEGORIES_OF_FIELD * _NUM_FIELDS,
        "optimizer": "fused Adam",
        "cases": [{"case": name, "rules": _over_backprop(seconds)} for name, seconds in found.items()],
    }


def _over_backprop(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians in milliseconds and over backprop's."""
    medians = {rule: statistics.median(times) for rule, times in seconds.items()}
    return {
        rule: {"ms": round(1e3 * one, 3), "ratio": round(one / medians["backprop"], 4)} for rule, one in medians.items()
    }


def show(record: dict[str, Any]) -> None:
    """Print a record.

    Args:
        record: What `measure` returned, beside facts about the machine.
    """
    print(f"batch {record['batch']}, {record['fields']} fields, {record['categories']} categories")
    for case in record["cases"]:
        print(case["case"])
        for rule, found in case["rules"].items():
            print(f"  {rule:10s} {found['ms']:8.2f} ms   {found['ratio']:.3f} of backprop")


if __name__ == "__main__":
    show(measure(60))
