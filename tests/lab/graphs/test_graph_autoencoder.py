from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_graphs import both_ways, communities

from feedalign_lab.errors import SettingError
from feedalign_lab.graphs.links import LinkTask, LinkTrial, absent_pairs, logits, split_links
from feedalign_lab.learner import LearnerSpec


def pairs_of(edges: torch.Tensor) -> set[tuple[int, int]]:
    return {(min(pair), max(pair)) for pair in edges.T.tolist()}


def trial_of(rule: str = "dfa") -> LinkTrial:
    return LinkTask(communities(), "gae").trial(LearnerSpec(rule, "gae", 0.01))


def test_edges_are_held_out_and_as_many_absent_pairs_drawn() -> None:
    graph = communities(120)
    split = split_links(graph, 0, 0)
    every = pairs_of(graph.edges)
    train, validation, test = (pairs_of(part) for part in (split.train, split.validation, split.test))
    assert len(validation) == int(0.05 * len(every))
    assert len(test) == int(0.10 * len(every))
    assert train | validation | test == every
    assert len(train) + len(validation) + len(test) == len(every)
    # Messages pass along training edges alone, in both directions.
    assert split.train.shape[1] == 2 * len(train)
    absent = [pairs_of(part) for part in (split.validation_absent, split.test_absent)]
    assert [len(part) for part in absent] == [len(validation), len(test)]
    assert not (absent[0] | absent[1]) & every
    assert not absent[0] & absent[1]
    assert all(source != target for part in absent for source, target in part)


def test_another_split_for_every_trial_the_same_for_every_rule() -> None:
    graph = communities()
    assert torch.equal(split_links(graph, 0, 0).test, split_links(graph, 0, 0).test)
    assert not torch.equal(split_links(graph, 0, 0).test, split_links(graph, 0, 1).test)


def test_pythons_and_torchs_generators_are_left_alone() -> None:
    random.seed(5)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trial = trial_of()
    trial.train_epoch(1)
    absent_pairs(communities().edges, 60, 10, seed=3)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


def test_the_loss_is_the_cross_entropy_of_edges_and_absent_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of()
    absent = torch.tensor([[0, 1, 2], [59, 58, 57]])
    monkeypatch.setattr("feedalign_lab.graphs.links.negative_sampling", lambda edges, num_nodes: absent)
    latent = torch.randn(60, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 4
    z = latent.numpy()

    def probability(source: int, target: int) -> float:
        return float(1 / (1 + np.exp(-z[source] @ z[target])))

    present = np.mean([np.log(probability(*pair)) for pair in trial.split.train.T.tolist()])
    missing = np.mean([np.log(1 - probability(*pair)) for pair in absent.T.tolist()])
    assert float(trial.loss(latent, 1)) == pytest.approx(-(present + missing), abs=1e-10)


def test_absent_pairs_are_drawn_anew_in_every_epoch_and_the_same_again() -> None:
    trial, latent = trial_of(), torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    assert float(trial.loss(latent, 1)) == float(trial.loss(latent, 1)) != float(trial.loss(latent, 2))


def test_the_error_is_that_of_the_latent_rows() -> None:
    trial = trial_of()
    trial.model.double()
    x, edges, weights = trial.inputs
    trial.inputs = (x.double(), edges, weights.double())
    latent = trial.model(*trial.inputs)
    latent.retain_grad()
    trial.loss(latent, 1).backward()
    feedback = trial.handle.feedback_at("activation")
    assert feedback is not None
    assert feedback.shape == (16, 32)
    first = trial.model.get_submodule("conv1")
    hidden = torch.relu(first(*trial.inputs))
    assert latent.grad is not None
    wanted = torch.autograd.grad(hidden, list(first.parameters()), latent.grad @ feedback)
    for parameter, gradient in zip(first.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-10)


def test_scores_are_ranks_of_inner_products() -> None:
    trial = trial_of()
    latent = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    trial.output = lambda: latent  # type: ignore[method-assign]
    present, absent = (logits(latent, pairs).tolist() for pairs in (trial.split.test, trial.split.test_absent))
    wins = [float(high > low) for high in present for low in absent]
    scores = trial.scores()
    assert scores.test == pytest.approx(np.mean(wins))
    ranked = sorted([(score, 1) for score in present] + [(score, 0) for score in absent], reverse=True)
    hits = np.cumsum([hit for _, hit in ranked])
    precisions = [hits[place] / (place + 1) for place, (_, hit) in enumerate(ranked) if hit]
    assert scores.others["AP"] == pytest.approx(np.mean(precisions))
    assert scores.validation is not None


def test_messages_pass_along_training_edges_alone() -> None:
    trial = trial_of()
    edges = trial.inputs[1]
    passed = pairs_of(edges[:, edges[0] != edges[1]])
    assert passed == pairs_of(trial.split.train)
    assert not passed & (pairs_of(trial.split.test) | pairs_of(trial.split.validation))


@pytest.mark.parametrize("rule", ["backprop", "dfa"])
def test_links_of_communities_are_learned(rule: str) -> None:
    trial = LinkTask(communities(120), "gae").trial(LearnerSpec(rule, "gae", 0.01))
    losses = [trial.train_epoch(epoch) for epoch in range(1, 101)]
    assert losses[-1] < 0.95 * losses[0]
    assert trial.scores().test > 0.6


def test_facts_and_the_trivial_predictor() -> None:
    graph = communities()
    task = LinkTask(graph, "gae")
    facts = task.data_facts()
    assert facts["num_train"] + facts["num_validation"] + facts["num_test"] == graph.num_edges
    assert task.network_facts()["num_parameters"] == (24 + 1) * 32 + (32 + 1) * 16
    assert 0.5 < task.trivial(0, 0)["features in common"] <= 1
    assert {"split", "order"} <= set(task.streams())


def test_too_few_edges_are_refused() -> None:
    graph = replace(communities(), edges=both_ways([(0, 1), (2, 3)]))
    with pytest.raises(SettingError, match="has 2 edges; at least 20"):
        LinkTask(graph, "gae")


def test_a_graph_that_links_all_pairs_is_refused() -> None:
    graph = replace(communities(12), edges=both_ways([(i, j) for i in range(12) for j in range(i)]))
    with pytest.raises(SettingError, match=r"links nearly all pairs of its nodes: of 9 pairs .*, 0 were found"):
        LinkTask(graph, "gae").trial(LearnerSpec("dfa", "gae", 0.01))
