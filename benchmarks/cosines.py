"""Cosines of DFA's signals to backprop's on Cora, as the lab reads them and as the public code of the paper does.

    python -m benchmarks.cosines

trains the five node classifiers for 250 epochs each and writes docs/records/cosines.json. It takes a few minutes on one
core, most of them for `dna`.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from feedalign_lab.graphs.graph import Graph
from feedalign_lab.graphs.names import CLASSIFIER_NAMES, DATA_NAMES
from feedalign_lab.graphs.node_alignment import signals
from feedalign_lab.graphs.nodes import NodeTask, NodeTrial
from feedalign_lab.graphs.planetoid import load_planetoid
from feedalign_lab.graphs.settings import rule_setting, run_setting
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.running import dropout_stream, evaluating
from feedalign_lab.seeding import stream_seed

RECORD = Path(__file__).parent.parent / "docs" / "records" / "cosines.json"
_DATA, _RULE = DATA_NAMES[0], "dfa"
# Of either gradient, below which the public code of the paper takes it for zero.
_FLOOR = 1e-8


def reading(given: Tensor, wanted: Tensor, *, floor: float | None = None) -> dict[str, Any]:
    """Compare signals node by node.

    Args:
        given: A rule's signals, `[N, D]`.
        wanted: Backprop's.
        floor: With one, entries up to it count as zero, every node counts, and one with two signals of zero as 1;
            without one, nodes at which either signal is zero are left out.

    Returns:
        Mean and standard deviation of the cosines, over how many nodes, and how many of these counted as 1.
    """
    given, wanted = given.double(), wanted.double()
    if floor is None:
        both = (given != 0).any(1) & (wanted != 0).any(1)
        cosines, num_silent = functional.cosine_similarity(given[both], wanted[both], dim=1), 0
    else:
        given, wanted = (part.where(part.abs() > floor, 0.0) for part in (given, wanted))
        silent = ~((given != 0).any(1) | (wanted != 0).any(1))
        # Scaled up, lest the library's own guard against zero norms shrinks small ones.
        cosines = functional.cosine_similarity(given / floor, wanted / floor, dim=1).masked_fill(silent, 1.0)
        num_silent = int(silent.sum())
    return {
        "mean": float(cosines.mean()),
        "std": float(cosines.std(correction=0)),
        "num_nodes": len(cosines),
        "num_counted_as_1": num_silent,
    }


def readings(trial: NodeTrial) -> dict[str, dict[str, Any]]:
    """Compare at the last hidden activation, over all nodes.

    Args:
        trial: A network as trained as it is to be.

    Returns:
        By how it is read: without dropout; with dropout left on in backprop's reference; with silent nodes counted as
        1; and with both.
    """
    point = trial.model.hidden
    with evaluating(trial.model):
        given = _signal(trial, point)
        with trial.handle.suspended():
            wanted = _signal(trial, point)
    with trial.handle.suspended(), dropout_stream(stream_seed(0, 0, "dropout"), given.device):
        with_dropout = _signal(trial, point)
    return {
        "plain": reading(given, wanted),
        "dropout": reading(given, with_dropout),
        "silent": reading(given, wanted, floor=_FLOOR),
        "both": reading(given, with_dropout, floor=_FLOOR),
    }


def _signal(trial: NodeTrial, point: str) -> Tensor:
    return signals(trial.model, [point], trial.measured_loss, trial.inputs)[point]


def measure(graph: Graph, network: str, epochs: int) -> dict[str, Any]:
    """Train a network and read its cosines.

    Args:
        graph: The graph.
        network: Name of the network.
        epochs: How many steps to take.

    Returns:
        What was trained, and the readings.
    """
    setting = rule_setting(_DATA, network, _RULE)
    spec = LearnerSpec(
        _RULE, network, setting.learning_rate, weight_decay=setting.weight_decay, dropout=setting.dropout
    )
    trial = NodeTask(graph, network).trial(spec)
    loss = float("nan")
    with dropout_stream(stream_seed(spec.seed, spec.trial, "dropout"), graph.features.device):
        for epoch in range(1, epochs + 1):
            loss = trial.train_epoch(epoch)
    facts = {"network": network, "epochs": epochs, "rate": setting.learning_rate, "dropout": setting.dropout}
    return {**facts, "train_loss": loss, "readings": readings(trial)}


def main() -> None:
    """Measure all networks and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cosines", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--record", type=Path, default=RECORD, help="file to write to (default: %(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    graph = load_planetoid(_DATA)
    networks = []
    for network in CLASSIFIER_NAMES:
        found = measure(graph, network, run_setting(_DATA, network).epochs)
        networks.append(found)
        print(network, *(f"{how} {one['mean']:.2f} ({one['std']:.2f})" for how, one in found["readings"].items()))
    head = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "data": _DATA, "rule": _RULE, "floor": _FLOOR}
    head |= {"torch": torch.__version__, "python": platform.python_version(), "num_threads": torch.get_num_threads()}
    given.record.write_text(json.dumps(head | {"networks": networks}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
