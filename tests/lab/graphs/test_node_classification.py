from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_graphs import communities

from feedalign_lab.checkpoints.file import read_checkpoint, write_checkpoint
from feedalign_lab.errors import DivergedError, SettingError
from feedalign_lab.graphs.graph import Graph
from feedalign_lab.graphs.names import CLASSIFIER_NAMES
from feedalign_lab.graphs.nodes import NodeTask, NodeTrial
from feedalign_lab.graphs.pictures import Scatter, draw_scatters
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.running import dropout_stream
from feedalign_lab.training import Schedule, run_trial


def trial_of(network: str, rule: str = "dfa", graph: Graph | None = None, **settings: float) -> NodeTrial:
    spec = LearnerSpec(rule, network, **{"learning_rate": 0.01, **settings})  # type: ignore[arg-type]
    return NodeTask(graph or communities(), network).trial(spec)


def trained(network: str, rule: str, epochs: int = 40) -> NodeTrial:
    trial = trial_of(network, rule)
    with dropout_stream(0, torch.device("cpu")):
        for epoch in range(1, epochs + 1):
            trial.train_epoch(epoch)
    return trial


@pytest.mark.parametrize("network", CLASSIFIER_NAMES)
def test_the_error_of_unlabelled_nodes_is_zero(network: str) -> None:
    trial = trial_of(network)
    output = trial.model(*trial.inputs)
    output.retain_grad()
    trial.loss(output, 1).backward()
    train = torch.zeros(trial.graph.num_nodes, dtype=torch.bool)
    train[trial.split.train] = True
    assert output.grad is not None
    assert bool(output.grad[train].any(1).all())
    assert not bool(output.grad[~train].any())


@pytest.mark.parametrize("network", CLASSIFIER_NAMES)
@pytest.mark.parametrize("rule", ["backprop", "dfa"])
def test_communities_are_told_apart(network: str, rule: str) -> None:
    assert trained(network, rule).scores().test > 80


def test_a_frozen_hidden_layer_stays_as_it_was() -> None:
    trial = trial_of("gcn", "shallow")
    first = trial.model.get_parameter("conv1.lin.weight").detach().clone()
    second = trial.model.get_parameter("conv2.lin.weight").detach().clone()
    trial.train_epoch(1)
    assert torch.equal(trial.model.get_parameter("conv1.lin.weight"), first)
    assert not torch.equal(trial.model.get_parameter("conv2.lin.weight"), second)


@pytest.mark.parametrize(
    ("network", "is_first_alone"), [("cheb", True), ("gcn", True), ("spline", False), ("gat", False)]
)
def test_weight_decay_acts_where_the_paper_has_it(network: str, is_first_alone: bool) -> None:
    trial = trial_of(network, weight_decay=0.1)
    decays = {id(p): group["weight_decay"] for group in trial.optimizer.param_groups for p in group["params"]}
    for name, parameter in trial.model.named_parameters():
        wanted = 0.0 if is_first_alone and name.startswith("conv2") else 0.1
        assert decays[id(parameter)] == wanted, name


def test_the_score_is_the_percentage_of_nodes_in_the_right_class() -> None:
    trial = trial_of("gcn")
    # Every node's own class wins, but for the first two test nodes.
    output = 5 * torch.nn.functional.one_hot(trial.graph.labels, 3).float()
    output[trial.split.test[:2]] = output[trial.split.test[:2]].roll(1, dims=1)
    trial.output = lambda: output  # type: ignore[method-assign]
    scores = trial.scores()
    assert scores.validation == 100
    assert scores.test == pytest.approx(100 * (1 - 2 / len(trial.split.test)))


def test_one_seed_gives_the_same_numbers_and_leaves_the_global_generators_alone() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    results = []
    for seed in (0, 0, 1):
        spec = LearnerSpec("dfa", "gat", 0.01, dropout=0.5, seed=seed)
        result = run_trial(NodeTask(communities(), "gat").trial(spec), spec, Schedule(3, None))
        results.append([(epoch.train_loss, epoch.test_score) for epoch in result.epochs])
    assert results[0] == results[1] != results[2]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_a_loss_that_is_not_finite_ends_the_trial() -> None:
    trial = trial_of("gcn")
    with torch.no_grad():
        trial.model.get_parameter("conv2.bias").fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"dfa: the loss \(nan\) is no longer finite at epoch 7.*conv2.bias"):
        trial.train_epoch(7)


def test_folds_are_stratified_and_another_for_every_trial() -> None:
    task = NodeTask(communities(), "dna")
    split = task.split(0, 0)
    parts = (split.train, split.validation, split.test)
    assert sorted(torch.cat(parts).tolist()) == list(range(60))
    for part, size in zip(parts, (12, 12, 36), strict=True):
        assert task.graph.labels[part].bincount().tolist() == [size // 3] * 3
    assert torch.equal(task.split(0, 0).train, split.train)
    assert not torch.equal(task.split(0, 1).train, split.train)
    assert task.is_redrawn
    assert "split" in task.streams()


def test_a_graph_of_ones_own_keeps_its_split_under_every_network() -> None:
    graph = replace(communities(), name="graph:mine")
    task = NodeTask(graph, "dna")
    assert task.split(0, 3) is graph.split
    assert not task.is_redrawn


def test_facts_and_the_trivial_predictor() -> None:
    task = NodeTask(communities(), "gcn")
    facts = task.data_facts()
    assert (facts["num_nodes"], facts["num_isolated_nodes"], facts["num_classes"]) == (60, 3, 3)
    assert (facts["num_train"], facts["num_validation"], facts["num_test"]) == (12, 12, 36)
    assert task.network_facts() == {"activation": "relu", "num_parameters": (24 + 1) * 16 + (16 + 1) * 3}
    assert task.trivial(0, 0) == {"largest class": pytest.approx(100 / 3)}


def test_the_gradients_measured_are_those_of_all_labelled_nodes_and_backprops_angle_is_zero() -> None:
    rows = {row.layer: row for row in trained("gcn", "backprop", 2).alignment()}
    assert rows["conv1.lin"].weight == pytest.approx(0, abs=1e-3)
    trial = trained("gcn", "dfa", 2)
    before = [parameter.detach().clone() for parameter in trial.model.parameters()]
    angles = {row.layer: row for row in trial.alignment()}
    assert 0 < angles["conv1.lin"].weight < 120
    assert angles["conv2.lin"].weight == pytest.approx(0, abs=1e-3)
    for parameter, old in zip(trial.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_pictures_and_alignment_are_left_behind(tmp_path: Path) -> None:
    task = NodeTask(communities(), "gcn")
    for rule in ("backprop", "dfa"):
        trial = task.trial(LearnerSpec(rule, "gcn", 0.01))
        trial.train_epoch(1)
        files = dict(trial.results())
        assert set(files) == {"alignment.json", "hidden.png"}
        for name, write in files.items():
            write(tmp_path / f"{rule}-{name}")
    ((name, write),) = task.results()
    assert name == "hidden.png"
    write(tmp_path / name)
    images = [tmp_path / name, tmp_path / "dfa-hidden.png"]
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    (row,) = json.loads((tmp_path / "backprop-alignment.json").read_text(encoding="utf-8"))
    assert row["point"] == "activation"
    assert row["mean"] == pytest.approx(1, abs=1e-6)


def test_what_was_noted_of_a_rule_is_drawn_from_a_file_too(tmp_path: Path) -> None:
    """A comparison that was cut and goes on draws the rules that were done before as they were."""
    task = NodeTask(communities(), "gcn")
    for rule in ("backprop", "dfa"):
        task.trial(LearnerSpec(rule, "gcn", 0.01)).results()
    write_checkpoint(tmp_path / "a", {}, task.notes(), keeps_older=False)
    other = NodeTask(communities(), "gcn")
    other.notes().update(read_checkpoint(tmp_path / "a")[1])
    for number, one in enumerate((task, other)):
        ((_, write),) = one.results()
        write(tmp_path / f"{number}.png")
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_dead_units_and_two_nodes_can_be_drawn(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1])
    for activations in (torch.zeros(2, 16), torch.eye(2, 16)):
        scatter = Scatter.of_activations(activations, labels)
        assert np.isfinite(scatter.positions).all()
        draw_scatters({"dfa": scatter}, ("a", "b"), tmp_path / "hidden.png")


def test_one_rule_alone_has_nothing_to_be_shown_beside() -> None:
    assert NodeTask(communities(), "gcn").results() == ()


def test_a_graph_without_a_split_has_no_classes_to_learn() -> None:
    with pytest.raises(SettingError, match=r"nodes\.csv the columns label and split, or take the network gae"):
        NodeTask(replace(communities(), split=None), "gcn")


def test_a_dropout_out_of_range_is_refused() -> None:
    with pytest.raises(SettingError, match=r"at least 0 and below 1, not 1\.0"):
        trial_of("gcn", dropout=1.0)
