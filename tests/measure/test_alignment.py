"""Angles to backprop: known ones, those of the equations, and a model left as it was found."""

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from agreement import assert_agree, feedback_for, gradients, gradients_after, gradients_after_step, rule_for
from feedalign.errors import AttachError
from feedalign.measure.alignment import Alignment, angle
from feedalign.rules import LearnedRule
from problems import Problem, SmallConvNet, by_hand, draw
from reference import backprop, dfa, drtp, perceptron, sign_dfa
from reference import fa as feedback_alignment
from reference.brsf import NONE
from reference.losses import error_at_output

EQUATIONS = {fa.FA: feedback_alignment, fa.DFA: dfa, fa.SignDFA: sign_dfa, fa.DRTP: drtp}


def measure(model: nn.Module, problem: Problem) -> Alignment:
    return fa.measure.alignment(model, F.cross_entropy, (problem.inputs(), problem.targets()))


def degrees(one: Tensor, other: Tensor) -> float:
    return math.degrees(math.acos(float((one * other).sum() / (one.norm() * other.norm()))))


def flat(alignment: Alignment) -> list[float]:
    return [angle for row in alignment.layers for angle in (row.signal, row.delta, row.weight)]


@pytest.mark.parametrize("rule", list(EQUATIONS))
def test_angles_are_those_of_the_equations(rule: type[fa.Rule]) -> None:
    problem = Problem()
    model, feedback = problem.model(), feedback_for(rule(), problem)
    fa.attach(model, rule(), example_inputs=problem.inputs(), feedback=feedback)
    found = measure(model, problem)

    net = by_hand(model, "tanh")
    passed = perceptron.forward(net, problem.inputs())
    scale = torch.full((5, 1), 1 / 5, dtype=torch.float64)
    error = error_at_output("cross_entropy", passed.output, problem.target_rows(), scale)
    held = [NONE, *feedback.values()] if rule is fa.FA else list(feedback.values())
    case = perceptron.Case(net, passed, error, problem.target_rows(), scale, held)
    signals = [backprop.signals(case), EQUATIONS[rule].signals(case)]
    deltas = [perceptron.deltas(net, passed, one) for one in signals]
    weights = [perceptron.gradients(case, one) for one in signals]
    for row, layer in zip(found.layers[:2], (0, 1), strict=True):
        assert row.layer == f"fc{layer + 1}"
        if row.point is not None:
            assert row.point == f"act{layer + 1}"
        assert row.signal == pytest.approx(degrees(signals[0][layer], signals[1][layer]), abs=1e-6)
        assert row.delta == pytest.approx(degrees(deltas[0][layer], deltas[1][layer]), abs=1e-6)
        name = f"{row.layer}.weight"
        assert row.weight == pytest.approx(degrees(weights[0][name], weights[1][name]), abs=1e-6)
    assert found.layers[2].layer == "fc3"
    assert found.layers[2].weight == pytest.approx(0, abs=1e-9)
    assert found.layers[2].delta == pytest.approx(0, abs=1e-9)


def test_backprop_is_at_zero_degrees() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.Backprop(), example_inputs=problem.inputs())
    rows = measure(model, problem).layers
    assert [row.layer for row in rows] == ["fc1", "fc2", "fc3"]
    assert all(row.delta == 0 and row.weight == 0 for row in rows)


def test_feedback_that_is_the_weights_is_at_zero_degrees() -> None:
    problem = Problem()
    model = problem.model()
    weights = {f"fc{layer}": model.get_submodule(f"fc{layer}").weight for layer in (2, 3)}
    fa.attach(model, fa.FA(), example_inputs=problem.inputs(), feedback=weights)
    assert all(row.delta < 1e-6 and row.weight < 1e-6 for row in measure(model, problem).layers)


@pytest.mark.parametrize("wanted", [0.0, 30.0, 60.0, 90.0, 135.0, 180.0])
def test_feedback_turned_by_an_angle_is_at_that_angle(wanted: float) -> None:
    """One output and a linear hidden layer: signal, delta and weight gradient all lie along the one row of B."""
    problem = Problem("squared_error", nonlinearity="identity", widths=(5, 2, 1))
    model = problem.model()
    turn = math.radians(wanted)
    rotation = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    turned = 3 * model.fc2.weight.detach() @ rotation
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs(), feedback={"act1": turned})
    hidden = fa.measure.alignment(model, F.mse_loss, (problem.inputs(), problem.targets())).layers[0]
    assert (hidden.signal, hidden.delta, hidden.weight) == pytest.approx((wanted,) * 3, abs=1e-6)


def test_negative_feedback_is_at_the_supplement() -> None:
    problem = Problem()
    matrices = problem.direct_feedback()
    found = []
    for feedback in (matrices, {name: -matrix for name, matrix in matrices.items()}):
        model = problem.model()
        fa.attach(model, fa.DFA(), example_inputs=problem.inputs(), feedback=feedback)
        found.append(measure(model, problem).layers[0])
    assert found[0].weight + found[1].weight == pytest.approx(180)
    assert found[0].signal + found[1].signal == pytest.approx(180)


def test_a_layer_without_a_gradient_has_no_angle() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.Shallow(), example_inputs=problem.inputs())
    rows = measure(model, problem).layers
    assert all(math.isnan(angle) for row in rows[:2] for angle in (row.signal, row.delta, row.weight))
    assert rows[2].weight == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 0.0], [2.0, 0.0], 0.0),
        ([1.0, 0.0], [0.0, 3.0], 90.0),
        ([1.0, 1.0], [-5.0, -5.0], 180.0),
        ([1.0, 0.0], [1.0, 1e-9], math.degrees(1e-9)),
        ([1e-40, 0.0], [1e38, 1e38], 45.0),
        ([1e-200, 0.0], [1e200, 1e200], 45.0),
        ([1e-310, 1e-310], [1e308, 0.0], 45.0),
    ],
)
def test_an_angle_is_exact_near_zero_and_whatever_the_sizes(
    one: list[float], other: list[float], expected: float
) -> None:
    found = angle(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64))
    assert found == pytest.approx(expected, rel=1e-9)


def test_there_is_no_angle_to_nothing() -> None:
    assert math.isnan(angle(torch.zeros(3), torch.ones(3)))
    assert math.isnan(angle(None, torch.ones(3)))


class WithRandomnessAndBuffers(nn.Module):
    """Dropout and batch normalization, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 6), nn.Tanh()
        )
        self.out = nn.Linear(6, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x))


@pytest.mark.parametrize("rule", fa.ALL_RULES)
@pytest.mark.parametrize("has_gradients", [False, True])
def test_the_model_is_left_as_it_was_found(rule: type[fa.Rule], has_gradients: bool) -> None:
    model, problem = WithRandomnessAndBuffers(), Problem()
    fa.attach(model, rule(), example_inputs=problem.inputs())
    if has_gradients:
        gradients_after(model, F.cross_entropy(model(problem.inputs()), problem.targets()))
    held = {name: p.grad for name, p in model.named_parameters()}
    before, state, random_state = gradients(model), dict(model.state_dict()), torch.get_rng_state()
    copies = {name: tensor.clone() for name, tensor in state.items()}
    num_hooks = sum(len(module._forward_hooks) for module in model.modules())
    measure(model, problem)
    assert all(p.grad is held[name] for name, p in model.named_parameters())
    assert all(p.grad is None or p.grad.equal(before[name]) for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.state_dict().keys() == copies.keys()
    assert all(torch.equal(tensor, copies[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.data_ptr() == state[name].data_ptr() for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert sum(len(module._forward_hooks) for module in model.modules()) == num_hooks


def test_both_runs_drop_the_same_units() -> None:
    model, problem = WithRandomnessAndBuffers(), Problem()
    fa.attach(model, fa.Backprop(), example_inputs=problem.inputs())
    assert all(row.weight == 0 for row in measure(model, problem).layers if not math.isnan(row.weight))


def test_a_measurement_changes_no_later_step() -> None:
    problem = Problem()
    found = []
    for is_measured in (False, True):
        model = problem.model()
        fa.attach(model, fa.BRSF(), example_inputs=problem.inputs())
        gradients_after_step(model, problem)
        if is_measured:
            measure(model, problem)
        found.append(gradients_after_step(model, problem))
    assert_agree(*found, tolerance=0.0)


def test_a_measurement_is_the_same_twice() -> None:
    model, problem = WithRandomnessAndBuffers(), Problem()
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs())
    first, second = flat(measure(model, problem)), flat(measure(model, problem))
    assert first == pytest.approx(second, nan_ok=True, abs=0)


def test_a_streaming_model_is_measured_from_the_error_and_streams_on() -> None:
    problem = Problem()
    learning, streaming = problem.model(), problem.model()
    fa.attach(learning, fa.DRTP(), example_inputs=problem.inputs())
    handle = fa.attach(streaming, fa.DRTP(), example_inputs=problem.inputs())
    handle.targets(problem.targets())
    expected, found = flat(measure(learning, problem)), flat(measure(streaming, problem))
    assert found == expected
    assert handle.is_streaming
    assert all(p.grad is None for p in streaming.parameters())
    assert_agree(gradients_after_step(streaming, problem, keep=True), gradients_after_step(learning, problem))


def test_a_measurement_that_fails_leaves_the_rule_on() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs())
    before = gradients_after_step(model, problem)
    with pytest.raises(ZeroDivisionError):
        fa.measure.alignment(model, lambda output, targets: 1 / 0, (problem.inputs(), problem.targets()))
    assert_agree(gradients_after_step(model, problem), before, tolerance=0.0)


def test_every_rule_is_measured_on_a_convolutional_network() -> None:
    x, labels = SmallConvNet.batch()
    for rule in fa.ALL_RULES:
        model = SmallConvNet()
        # Feedback that is learned starts at zero, from which there is no angle.
        drawn = fa.KaimingUniform() if issubclass(rule, LearnedRule) else None
        fa.attach(model, rule_for(rule, Problem()), example_inputs=x, feedback=drawn)
        rows = fa.measure.alignment(model, F.cross_entropy, (x, labels)).layers
        assert [row.layer for row in rows] == ["conv1", "conv2", "fc"]
        hidden = [row.weight for row in rows[:2]]
        assert all(math.isnan(angle) if rule is fa.Shallow else 0 <= angle <= 180 for angle in hidden)


def test_a_parametrized_layer_is_measured_under_its_own_name() -> None:
    problem = Problem()
    model = problem.model()
    nn.utils.parametrizations.weight_norm(model.fc1)
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs())
    rows = measure(model, problem).layers
    assert [row.layer for row in rows] == ["fc1", "fc2", "fc3"]
    assert rows[0].point == "act1"
    assert all(0 < angle < 180 for angle in (rows[0].signal, rows[0].delta, rows[0].weight))


def test_inputs_may_be_several_or_named() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Problem().model()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.net(a + b)

    problem, model = Problem(), Sum()
    a, b = problem.inputs(), draw(5, 5, seed=9)
    fa.attach(model, fa.DFA(), example_inputs=(a, b))
    positional = fa.measure.alignment(model, F.cross_entropy, ((a, b), problem.targets()))
    named = fa.measure.alignment(model, F.cross_entropy, ({"b": b, "a": a}, problem.targets()))
    assert positional == named


def test_a_measurement_works_where_gradients_are_off() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs())
    expected = measure(model, problem)
    with torch.no_grad():
        assert measure(model, problem) == expected


def test_a_plain_model_has_nothing_to_measure() -> None:
    problem = Problem()
    with pytest.raises(AttachError, match="No rule"):
        measure(problem.model(), problem)


def test_the_result_is_a_table_and_plain_data() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs())
    found = measure(model, problem)
    lines = str(found).splitlines()
    assert lines[0].split()[:4] == ["layer", "signal", "delta", "weight"]
    assert [line.split()[0] for line in lines[1:]] == ["fc1", "fc2", "fc3"]
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["point"] == "act1"


class BareWeight(nn.Module):
    """A weight that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.act = nn.Parameter(torch.eye(5)), nn.Tanh()
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(x @ self.weight))


def test_the_models_own_weight_has_a_name_in_the_table() -> None:
    model, x = BareWeight(), torch.ones(2, 5)
    fa.attach(model, fa.DFA(), example_inputs=x)
    found = fa.measure.alignment(model, nn.functional.cross_entropy, (x, torch.tensor([0, 1])))
    assert "(model)" in str(found).splitlines()[1]
