"""The angle of an averaged estimate, and the distance of feedback from the output weight."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.errors import AttachError, FeedbackShapeError
from problems import draw

x, y = draw(6, 4, seed=1), torch.arange(6) % 3


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=10 + number) / 2)
    return model


def attached(rule: fa.Rule, **options: object) -> nn.Module:
    model = network()
    fa.attach(model, rule, example_inputs=x, **options)
    return model


def angle_between(one: Tensor, other: Tensor) -> float:
    return math.degrees(math.acos(float((one * other).sum() / one.norm() / other.norm())))


def test_unbiased_rules_show_what_is_expected_of_them_and_others_do_not() -> None:
    for rule in (fa.WeightPerturbed(), fa.ActivityPerturbed(), fa.NoisyBackprop(std=0.1)):
        found = fa.measure.bias(attached(rule), F.cross_entropy, (x, y), num_draws=4000)
        assert found["0"].averaged == pytest.approx(found["0"].expected, rel=0.5)
        assert found["0"].averaged < 15
        assert found["0"].single > 2 * found["0"].averaged
    biased = fa.measure.bias(attached(fa.DFA()), F.cross_entropy, (x, y))
    assert biased["0"].averaged > 20
    assert biased["0"].expected == 0
    assert biased["0"].single == biased["0"].averaged


def test_the_angle_is_that_of_the_mean_of_single_estimates() -> None:
    model = attached(fa.ActivityPerturbed())
    found = fa.measure.bias(model, F.cross_entropy, (x, y), num_draws=2, seed=3)
    store = fa.handle_of(model).store
    store.seed.fill_(3)
    store.counter.fill_(0)
    for _ in range(2):
        F.cross_entropy(model(x), y).backward()
    estimate = model[0].weight.grad.clone()
    model.zero_grad()
    with fa.handle_of(model).suspended():
        F.cross_entropy(model(x), y).backward()
    assert found["0"].averaged == pytest.approx(angle_between(estimate, model[0].weight.grad), abs=1e-6)


def test_more_draws_bring_the_mean_nearer() -> None:
    model = attached(fa.ActivityPerturbed())
    few, many = (fa.measure.bias(model, F.cross_entropy, (x, y), num_draws=n)["0"] for n in (10, 2000))
    assert many.averaged < few.averaged
    assert many.expected < few.expected


def test_a_bias_prints_as_a_table_and_turns_into_plain_data() -> None:
    found = fa.measure.bias(attached(fa.ActivityPerturbed()), F.cross_entropy, (x, y), num_draws=2)
    assert str(found).splitlines()[0].split()[:2] == ["layer", "averaged"]
    assert [row["layer"] for row in found.to_dict()["layers"]] == ["0", "2"]
    with pytest.raises(KeyError, match="the layers are 0, 2"):
        found["5"]
    with pytest.raises(AttachError, match="num_draws=0"):
        fa.measure.bias(attached(fa.DFA()), F.cross_entropy, (x, y), num_draws=0)


def test_a_layer_that_learns_nothing_has_no_angle() -> None:
    found = fa.measure.bias(attached(fa.Shallow()), F.cross_entropy, (x, y))
    assert math.isnan(found["0"].averaged)
    assert found["2"].averaged == pytest.approx(0, abs=1e-6)


def test_distance_of_feedback_from_the_output_weight() -> None:
    matrix = draw(3, 5, seed=30)
    model = attached(fa.DFA(), feedback={"1": matrix})
    found = fa.measure.feedback_distance(model)
    weight = network()[2].weight.detach()
    difference = float((matrix.float().double() - weight).norm())
    assert (found.point, found.layer) == ("1", "2")
    assert found.distance == pytest.approx(difference, rel=1e-6)
    assert found.relative == pytest.approx(difference / float(weight.norm()), rel=1e-6)
    assert found.angle == pytest.approx(angle_between(matrix, weight), rel=1e-4)
    assert "B at 1, W of 2" in str(found)
    assert found.to_dict()["distance"] == found.distance


def test_learned_feedback_comes_nearer() -> None:
    model = attached(fa.FDFA(update="ema", rate=0.05))
    start = fa.measure.feedback_distance(model)
    assert math.isnan(start.angle)
    for _ in range(200):
        model(x)
    end = fa.measure.feedback_distance(model)
    assert end.relative < 0.5 < start.relative
    assert end.angle < 30


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(FeedbackShapeError, match="has no feedback matrix"):
        fa.measure.feedback_distance(attached(fa.ActivityPerturbed()))
    pooled = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Tanh(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(4, 3))
    fa.attach(pooled, fa.DFA(), example_inputs=torch.randn(2, 1, 4))
    with pytest.raises(FeedbackShapeError, match="No feedback point lies right below"):
        fa.measure.feedback_distance(pooled)
    wide = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    fa.attach(wide, fa.DFA(), example_inputs=torch.randn(2, 4), points="1")
    with pytest.raises(FeedbackShapeError, match="No feedback point lies right below"):
        fa.measure.feedback_distance(wide)
    with pytest.raises(AttachError, match="No rule is attached"):
        fa.measure.feedback_distance(network())
