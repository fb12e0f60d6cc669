"""All rules on recurrent modules, against the equations by hand; mixtures of rules, and points that are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Seeded
from attach.refusal import assert_refused
from feedalign import errors
from integration.by_hand import local_error
from integration.gradients import assert_same_gradients, draws_given, draws_recorded, gradients
from recurrent.by_steps import KINDS, Taught, batch_first, gradients_by_steps, run_of, same_for_all_steps, taught
from recurrent.perturbed import tangent_of_output
from recurrent.readers import CLASSES, HIDDEN, INPUTS, Case, Reader, cross_entropy, feedback_for, num_signals

TOLERANCE = 1e-12
PACKED = (3, 5, 1, 4)

FORMS: dict[str, Case] = {
    "a sequence's class": Case(options={"num_layers": 2, "bidirectional": True}, below="linear"),
    "steps first": Case(options={"num_layers": 2, "batch_first": False}, readout="last", has_states=True),
    "packed": Case(options={"num_layers": 2}, lengths=PACKED),
    "packed in both directions": Case(options={"bidirectional": True}, lengths=PACKED, has_states=True),
    "classes of steps": Case(options={"num_layers": 2}, readout="steps"),
    "classes of steps, in both directions, steps first": Case(
        options={"bidirectional": True, "batch_first": False}, readout="steps"
    ),
    "classes of steps, packed": Case(options={"num_layers": 2}, lengths=PACKED, readout="steps"),
}
every_form = pytest.mark.parametrize("form", FORMS)


def one_hot(targets: Tensor) -> Tensor:
    """Rows of zeros where there is no target."""
    return F.one_hot(targets.clamp(min=0), CLASSES).double() * (targets >= 0).unsqueeze(-1)


def of_sign_dfa(error: Tensor, targets: Tensor) -> Tensor:
    return error.sign() / (targets >= 0).sum()


def of_drtp(error: Tensor, targets: Tensor) -> Tensor:
    return -one_hot(targets) / (targets >= 0).sum()


BROADCASTS = {fa.DFA: lambda error, targets: error, fa.SignDFA: of_sign_dfa, fa.DRTP: of_drtp}


def step_of(case: Case, rule: fa.Rule, **options: Any) -> tuple[Reader, dict[str, Tensor | None], list[Tensor]]:
    """An attached model after one step, its gradients, and what was drawn for it."""
    model, inputs = case.model(), case.inputs()
    fa.attach(model, rule, example_inputs=inputs, **options)
    with draws_recorded() as drawn:
        cross_entropy(model(*inputs), case.targets()).backward()
    return model, gradients(model), drawn


def of_model(found: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: grad for name, grad in found.items() if not name.startswith("feedalign")}


def error_and_vector(case: Case, model: Reader) -> tuple[Tensor, Tensor]:
    """dL/dy of the plain model, laid out as the output; and samples first."""
    output = model(*case.inputs())
    (error,) = torch.autograd.grad(cross_entropy(output, case.targets()), output)
    return error, batch_first(case, error) if case.readout == "steps" else error


def by_hand(case: Case, model: Reader, signals: list[Tensor]) -> Taught:
    """What the recurrent module of a plain model learns from these signals."""
    return taught(model.rnn, run_of(case, model, case.inputs())[0], signals)


@every_form
@pytest.mark.parametrize(("rule", "kind"), [
    (fa.SignDFA, "GRU"), (fa.SignDFA, "GRU before, own reset"), (fa.DRTP, "tanh"), (fa.DRTP, "LSTM separate"),
])  # fmt: skip
def test_what_is_broadcast_reaches_every_step(rule: type[fa.Rule], kind: str, form: str) -> None:
    case = FORMS[form].of(kind=kind)
    feedback = feedback_for(case.model().rnn)
    _, found, _ = step_of(case, rule(gamma=0.7), feedback=feedback)
    expected = gradients_by_steps(case, feedback, case.inputs(), case.targets(), gamma=0.7, broadcast=BROADCASTS[rule])
    assert_same_gradients(found, {name: expected[name] for name in found}, TOLERANCE)


@every_form
@pytest.mark.parametrize("kind", ["relu", "GRU", "LSTM separate"])
def test_dkp_teaches_as_dfa_does_and_learns_from_all_steps(kind: str, form: str) -> None:
    case = FORMS[form].of(kind=kind)
    plain = case.model()
    feedback = feedback_for(plain.rnn)
    _, found, _ = step_of(case, fa.DKP(), feedback=feedback)
    expected = gradients_by_steps(case, feedback, case.inputs(), case.targets())
    assert_same_gradients(of_model(found), {name: expected[name] for name in of_model(found)}, TOLERANCE)
    _, error = error_and_vector(case, plain)
    zeros = [torch.zeros(case.num_samples, case.num_steps, matrix.shape[1]).double() for matrix in feedback.values()]
    for layer, states in enumerate(by_hand(case, plain, zeros).outputs):
        states = states.repeat(1, 1, num_signals(plain.rnn))
        paired = "ntc,ntd->cd" if error.dim() == 3 else "nc,ntd->cd"
        of_feedback = torch.einsum(paired, error, states)
        torch.testing.assert_close(found[f"feedalign.rnn_layer{layer}"], of_feedback, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("readout", ["last", "steps"])
def test_dkp_learns_nothing_from_padding(readout: str) -> None:
    case = Case("GRU", readout=readout)
    found = []
    for padding in (0.0, 1.0):
        model, (x, *_) = case.model(), case.inputs()
        x = x.masked_fill(torch.arange(5)[None, :, None] >= torch.tensor(PACKED)[:, None, None], padding)
        handle = fa.attach(model, fa.DKP(), example_inputs=x)
        output = model(x)
        error = torch.ones_like(output) if readout == "last" else torch.ones_like(output).cumsum(1)
        model.zero_grad()
        handle.lengths(torch.tensor(PACKED))
        model(x).backward(error)
        found.append(gradients(model)["feedalign.rnn_layer0"])
    torch.testing.assert_close(*found, rtol=TOLERANCE, atol=TOLERANCE)
    assert found[0].any()


def valid_steps(case: Case) -> int:
    return case.num_samples * case.num_steps if case.lengths is None else sum(case.lengths)


def only_valid(case: Case, drawn: Tensor) -> Tensor:
    """Perturbations `[1, N, T, D]` of those steps that there are."""
    if case.lengths is None:
        return drawn[0]
    return drawn[0] * (torch.arange(case.num_steps) < torch.tensor(case.lengths)[:, None]).unsqueeze(-1)


@every_form
@pytest.mark.parametrize(("kind", "update"), [
    ("tanh", "adam"), ("GRU", "adam"), ("LSTM", "adam"), ("GRU before", "adam"), ("GRU", "ema"),
])  # fmt: skip
def test_fdfa_estimates_the_jacobian_with_regard_to_every_state(kind: str, form: str, update: str) -> None:
    case = FORMS[form].of(kind=kind)
    plain = case.model()
    feedback = feedback_for(plain.rnn)
    rule = fa.FDFA() if update == "adam" else fa.FDFA(update="ema", rate=0.25)
    model, found, drawn = step_of(case, rule, feedback=feedback)
    expected = gradients_by_steps(case, feedback, case.inputs(), case.targets())
    assert_same_gradients(of_model(found), {name: expected[name] for name in of_model(found)}, TOLERANCE)
    moved = [only_valid(case, v) for v in drawn]
    tangent = tangent_of_output(case, plain, case.inputs(), moved)
    tangent = batch_first(case, tangent) if case.readout == "steps" else tangent
    paired = "ntc,ntd->cd" if case.readout == "steps" else "nc,ntd->cd"
    for layer, (matrix, v) in enumerate(zip(feedback.values(), moved, strict=True)):
        estimate = torch.einsum(paired, tangent, v) / valid_steps(case)
        if update == "adam":
            learned, wanted = found[f"feedalign.rnn_layer{layer}"], matrix - estimate
        else:
            learned, wanted = model.feedalign.feedback(f"rnn_layer{layer}"), 0.75 * matrix + 0.25 * estimate
        torch.testing.assert_close(learned, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_estimates_over_a_basis_are_the_mean_jacobian() -> None:
    """What FDFA's feedback learns: the derivative of the output by a state, averaged over samples and steps."""
    case = Case("GRU", {"num_layers": 2}, num_steps=2)
    model, inputs, size = case.model(), case.inputs(), 2 * HIDDEN
    fa.attach(model, fa.FDFA(), example_inputs=inputs)  # its feedback starts at zero, and its gradient is -T
    for unit in torch.eye(2 * size, dtype=torch.float64) * (2 * size) ** 0.5:
        moved = [part.reshape(1, 1, 2, HIDDEN).expand(1, case.num_samples, 2, HIDDEN) for part in unit.split(size)]
        with draws_given(moved):
            (cross_entropy(model(*inputs), case.targets()) / (2 * size)).backward()
    for layer, jacobian in enumerate(jacobians_through_time(case.model(), inputs[0])):
        mean = -model.feedalign.get_parameter(f"rnn_layer{layer}").grad / (2 * size)
        torch.testing.assert_close(mean, jacobian, rtol=TOLERANCE, atol=TOLERANCE)


def jacobians_through_time(model: Reader, x: Tensor) -> list[Tensor]:
    """For each of two layers of GRU cells dy/dh, `[C, H]`, averaged over samples and steps, by backprop."""
    rows, added = x, []
    for layer in range(2):
        weights = [getattr(model.rnn, f"{kind}_l{layer}") for kind in KINDS]
        h, states = torch.zeros(len(x), HIDDEN, dtype=torch.float64), []
        added.append(torch.zeros(len(x), x.shape[1], HIDDEN, dtype=torch.float64, requires_grad=True))
        for t in range(x.shape[1]):
            h = torch.gru_cell(rows[:, t], h, *weights) + added[layer][:, t]
            states.append(h)
        rows = torch.stack(states, 1)
    total = model.head(rows[:, -1]).sum(0)
    by_class = [torch.autograd.grad(one, added, retain_graph=True) for one in total]
    return [torch.stack([grads[layer].mean((0, 1)) for grads in by_class]) for layer in range(2)]


@every_form
@pytest.mark.parametrize("kind", ["relu", "GRU", "LSTM", "GRU before"])
def test_activity_perturbed_teaches_each_state_by_its_samples_slope(kind: str, form: str) -> None:
    case = FORMS[form].of(kind=kind)
    if case.readout == "steps" and not case.batch_first:
        pytest.skip("refused: samples come first")
    plain = case.model()
    _, found, drawn = step_of(case, fa.ActivityPerturbed())
    moved = [only_valid(case, v) for v in drawn]
    _, error = error_and_vector(case, plain)
    slopes = (error * tangent_of_output(case, plain, case.inputs(), moved)).flatten(1).sum(1)
    made = by_hand(case, plain, [slopes[:, None, None] * v for v in moved])
    for name, grad in made.gradients.items():
        torch.testing.assert_close(found[f"rnn.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)
        assert grad.any()
    exact = torch.autograd.grad(cross_entropy(plain(*case.inputs()), case.targets()), plain.head.weight)[0]
    torch.testing.assert_close(found["head.weight"], exact, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("form", [
    Case(options={"num_layers": 2}, num_steps=2),
    Case(options={"bidirectional": True}, readout="steps", num_steps=2),
    Case(options={"batch_first": False}, lengths=(3, 1, 2), num_samples=3, num_steps=3, has_states=True),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["relu", "GRU", "GRU before"])
def test_activity_perturbed_over_a_basis_is_backprop_through_time(kind: str, form: Case) -> None:
    """A state's slope goes through all later states, and its step is differentiated alone: nothing is left out."""
    case = form.of(kind=kind)
    model, plain, inputs, targets = case.model(), case.model(), case.inputs(), case.targets()
    fa.attach(model, fa.ActivityPerturbed(), example_inputs=inputs)
    shape = (1, case.num_steps, HIDDEN * case.num_directions)
    size = case.num_layers * shape[1] * shape[2]
    for unit in torch.eye(size, dtype=torch.float64) * size**0.5:
        moved = [part.reshape(1, *shape).expand(1, case.num_samples, -1, -1) for part in unit.chunk(case.num_layers)]
        with draws_given(moved):
            (cross_entropy(model(*inputs), targets) / size).backward()
    cross_entropy(plain(*inputs), targets).backward()
    assert_same_gradients(gradients(model), gradients(plain), TOLERANCE)


@pytest.mark.parametrize("readout", ["last", "steps"])
def test_local_greedy_gives_all_layers_but_the_last_a_head_over_their_steps(readout: str) -> None:
    case = Case("GRU", {"num_layers": 3}, readout=readout)
    plain = case.model()
    heads = feedback_for(plain.rnn)
    del heads["rnn.layer2"]
    _, found, drawn = step_of(case, fa.LocalGreedy(), feedback=heads)
    moved, targets = [only_valid(case, v) for v in drawn], one_hot(case.targets())
    _, error = error_and_vector(case, plain)
    zero = torch.zeros_like(moved[0])
    states = by_hand(case, plain, [zero] * 3).outputs
    signals = []
    for layer, head in enumerate(heads.values()):
        own_head = (head, torch.zeros(CLASSES, dtype=torch.float64))
        error_of_head = local_error(own_head, states[layer], targets)
        read = (lambda h: h) if readout == "steps" else (lambda h: h.mean(1))
        slopes = (error_of_head * (read(moved[layer]) @ head.T)).flatten(1).sum(1)
        signals.append(slopes[:, None, None] * moved[layer])
        of_head = error_of_head.reshape(-1, CLASSES).T @ read(states[layer]).reshape(-1, HIDDEN)
        torch.testing.assert_close(found[f"feedalign.rnn_layer{layer}"], of_head, rtol=TOLERANCE, atol=TOLERANCE)
    tangent = tangent_of_output(case, plain, case.inputs(), [zero, zero, moved[2]])
    signals.append((error * tangent).flatten(1).sum(1)[:, None, None] * moved[2])
    for name, grad in by_hand(case, plain, signals).gradients.items():
        torch.testing.assert_close(found[f"rnn.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM", "GRU before", "LSTM separate"])
def test_shallow_teaches_the_output_layer_alone(kind: str) -> None:
    case = Case(kind, {"num_layers": 2}, "embedding")
    _, found, _ = step_of(case, fa.Shallow())
    plain = case.model()
    exact = torch.autograd.grad(cross_entropy(plain(*case.inputs()), case.targets()), list(plain.head.parameters()))
    taught_names = {"head.weight": exact[0], "head.bias": exact[1]}
    assert_same_gradients(found, {name: taught_names.get(name) for name in found}, TOLERANCE)


class Sandwich(Seeded):
    """Linear and tanh, a recurrent module, linear and tanh, the output layer."""

    def build(self, kind: type[nn.RNNBase] = nn.GRU, num_layers: int = 2) -> None:
        self.fc1, self.act1 = nn.Linear(INPUTS, 2), nn.Tanh()
        self.rnn = kind(2, HIDDEN, num_layers, batch_first=True)
        self.fc2, self.act2, self.head = nn.Linear(HIDDEN, 9), nn.Tanh(), nn.Linear(9, CLASSES)
        self.cut: tuple[str, ...] = ()
        self.taps: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        h = self.through("act1", self.act1(self.fc1(x)))
        h = self.through("rnn", self.rnn(h)[0])
        return self.head(self.through("act2", self.act2(self.fc2(h[:, -1]))))

    def through(self, name: str, activation: Tensor) -> Tensor:
        """Cut by hand where a plain model is to be taught by hand."""
        self.taps[name] = activation
        return activation.detach() if name in self.cut else activation


case = Case()
x, y = case.inputs()[0], case.targets()


def sandwich(**options: Any) -> Sandwich:
    return Sandwich(0, **options).double()


def taught_by_hand(cut: dict[str, Tensor], **options: Any) -> dict[str, Tensor | None]:
    """Gradients where these points have `error @ B` and all between them is differentiated exactly, through time."""
    model = sandwich(**options)
    model.cut = tuple(cut)
    output = model(x)
    logits = output.detach().requires_grad_()
    (error,) = torch.autograd.grad(cross_entropy(logits, y), logits)
    signals = [error @ matrix for matrix in cut.values()]
    taps = [model.taps[name] for name in cut]
    shaped = [s if tap.dim() == 2 else s.unsqueeze(1).expand_as(tap) for s, tap in zip(signals, taps, strict=True)]
    torch.autograd.backward([output, *taps], [error, *shaped])
    return gradients(model)


def gradients_under(rule: Any, model: nn.Module | None = None, **options: Any) -> tuple[fa.Handle, dict[str, Any]]:
    model = sandwich() if model is None else model
    handle = fa.attach(model, rule, example_inputs=x, **options)
    cross_entropy(model(x), y).backward()
    return handle, of_model(gradients(model))


def matrices(handle: fa.Handle, *points: str) -> dict[str, Tensor]:
    return {point: handle.feedback_at(point) for point in points}


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_backprop_for_the_recurrent_module_is_exact_backprop_through_time(kind: type[nn.RNNBase]) -> None:
    model = sandwich(kind=kind)
    handle, found = gradients_under({"rnn": fa.Backprop(), "*": fa.DFA()}, model)
    assert_same_gradients(found, taught_by_hand(matrices(handle, "act1", "act2"), kind=kind), TOLERANCE)
    assert "forward" not in model.rnn.__dict__


@pytest.mark.parametrize("points", [["act1", "act2"], nn.Tanh, "act*", lambda name, module: "act" in name])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_points_that_leave_the_module_out_leave_it_exact_inside_its_block(kind: type[nn.RNNBase], points: Any) -> None:
    model = sandwich(kind=kind)
    handle, found = gradients_under(fa.DFA(), model, points=points)
    assert_same_gradients(found, taught_by_hand(matrices(handle, "act1", "act2"), kind=kind), TOLERANCE)
    assert "forward" not in model.rnn.__dict__
    assert not list(model.rnn.children())


@pytest.mark.parametrize("points", [
    "rnn",
    "rnn.layer*",
    "rnn*",
    ["rnn.layer0", "rnn.layer1"],
    nn.GRU,
    nn.RNNBase,
    lambda name, module: isinstance(module, nn.GRU),
    lambda name, module: name == "rnn",
])  # fmt: skip
def test_points_that_name_the_module_name_all_its_layers(points: Any) -> None:
    handle, found = gradients_under(fa.DFA(), points=points)
    assert [row.point for row in handle.describe().rows if row.point.startswith("rnn")].count("rnn.layer1") >= 1
    model = sandwich()
    output = model(x)
    (error,) = torch.autograd.grad(cross_entropy(output, y), output)
    below = model.act1(model.fc1(x))
    signals = [same_for_all_steps(error, handle.feedback_at(f"rnn.layer{n}"), 5) for n in range(2)]
    made = taught(model.rnn, run_of(Case(), _Given(below), (below, None))[0], signals)
    for name, grad in made.gradients.items():
        torch.testing.assert_close(found[f"rnn.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)
    of_fc1 = torch.autograd.grad(below, model.fc1.weight, made.of_input)[0]
    torch.testing.assert_close(found["fc1.weight"], of_fc1, rtol=TOLERANCE, atol=TOLERANCE)


class _Given:
    """Stands for a reader below which nothing lies."""

    def __init__(self, below: Tensor) -> None:
        self.below = below

    def lowest(self, x: Tensor) -> Tensor:
        return self.below


def test_a_mixture_gives_modules_and_layers_rules_of_their_own() -> None:
    rules = {"rnn.layer0": fa.SignDFA(), "rnn": fa.DFA(), "act2": fa.Shallow(), "*": fa.DRTP()}
    handle, found = gradients_under(rules)
    assert found["fc2.weight"] is None
    model = sandwich()
    output = model(x)
    (error,) = torch.autograd.grad(cross_entropy(output, y), output)
    vectors = [of_sign_dfa(error, y), error]
    signals = [same_for_all_steps(v, handle.feedback_at(f"rnn.layer{n}"), 5) for n, v in enumerate(vectors)]
    below = model.act1(model.fc1(x))
    made = taught(model.rnn, run_of(Case(), _Given(below), (below, None))[0], signals)
    for name, grad in made.gradients.items():
        torch.testing.assert_close(found[f"rnn.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)
    of_act1 = same_for_all_steps(of_drtp(error, y), handle.feedback_at("act1"), 5)
    of_fc1 = torch.autograd.grad(below, model.fc1.weight, of_act1)[0]
    torch.testing.assert_close(found["fc1.weight"], of_fc1, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("rule", "points"), [
    ({"rnn.layer0": fa.Backprop(), "*": fa.DFA()}, None),
    ({"rnn.layer1": fa.Backprop(), "*": fa.DFA()}, None),
    (fa.DFA(), "rnn.layer1"),
    (fa.DFA(), ["rnn.layer0", "act2"]),
])  # fmt: skip
def test_a_module_that_is_cut_at_some_layers_only_is_refused(rule: Any, points: Any) -> None:
    words = ("'rnn'", "no feedback point of its own", "neither", "as a whole")
    assert_refused(sandwich(), errors.AttachError, *words, rule=rule, example_inputs=x, points=points)


def test_a_frozen_layer_of_a_module_needs_no_point() -> None:
    model = sandwich()
    for name, parameter in model.rnn.named_parameters():
        parameter.requires_grad_("_l1" in name)
    handle, found = gradients_under(fa.DFA(), model, points=["act1", "rnn.layer1"])
    assert found["rnn.weight_hh_l0"] is None
    assert found["rnn.weight_hh_l1"].any()
    assert handle.feedback_at("rnn.layer0") is None


class TwoInTurn(Seeded):
    """A recurrent module on another's states; the second may begin with the last state of the first."""

    def build(self, hands_over: bool = False) -> None:
        self.first, self.second = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.head, self.hands_over = nn.Linear(HIDDEN, CLASSES), hands_over

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.first(x)
        return self.head(self.second(states, last if self.hands_over else None)[0][:, -1])


@pytest.mark.parametrize("hands_over", [False, True])
def test_modules_in_turn_are_cut_apart(hands_over: bool) -> None:
    """Also where one begins with the other's last state, which its point has cut off."""
    model = TwoInTurn(0, hands_over=hands_over).double()
    handle, found = gradients_under(fa.DFA(), model)
    plain = TwoInTurn(0, hands_over=hands_over).double()
    output = plain(x)
    (error,) = torch.autograd.grad(cross_entropy(output, y), output)
    states, last = plain.first(x)
    given = (last.detach(),) if hands_over else ()
    for name, run in (("first", (x, None)), ("second", (states.detach(), None, *given))):
        signal = same_for_all_steps(error, handle.feedback_at(f"{name}.layer0"), 5)
        module = plain.get_submodule(name)
        made = taught(module, run_of(Case(), _Given(run[0]), run)[0], [signal])
        for parameter, grad in made.gradients.items():
            torch.testing.assert_close(found[f"{name}.{parameter}"], grad, rtol=TOLERANCE, atol=TOLERANCE)


def test_exact_backprop_of_one_module_ends_at_the_point_of_another() -> None:
    handle, found = gradients_under({"second": fa.Backprop(), "*": fa.DFA()}, TwoInTurn(0).double())
    plain = TwoInTurn(0).double()
    exact = torch.autograd.grad(cross_entropy(plain(x), y), list(plain.second.parameters()))
    for (name, _), grad in zip(plain.second.named_parameters(), exact, strict=True):
        torch.testing.assert_close(found[f"second.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)
    assert handle.feedback_at("first.layer0").shape == (CLASSES, HIDDEN)
    assert handle.feedback_at("second.layer0") is None


class Beside(Seeded):
    """A recurrent module that no signal reaches, beside one that is taught."""

    def build(self, way: str) -> None:
        self.rnn, self.spare = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.LSTM(INPUTS, HIDDEN, 2, batch_first=True)
        self.head, self.way = nn.Linear(HIDDEN, CLASSES), way

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x)[0][:, -1]
        if self.way == "without gradients":
            with torch.no_grad():
                states = states + self.spare(x)[0][:, -1]
        elif self.way == "frozen":
            states = states + self.spare(x)[0][:, -1]
        output = self.head(states)
        if self.way == "behind the output":
            self.aside = self.spare(x)[0]
        return output


@pytest.mark.parametrize("way", ["unused", "without gradients", "frozen", "behind the output"])
@pytest.mark.parametrize("rule", [fa.DFA(), fa.FDFA(), fa.ActivityPerturbed(), fa.Shallow()], ids=lambda r: r.name)
def test_a_module_that_no_signal_reaches_is_left_alone(rule: fa.Rule, way: str) -> None:
    model, plain = (Beside(0, way=way).double() for _ in range(2))
    for one in (model, plain):
        one.spare.requires_grad_(way != "frozen")
    options = {"output": "head"} if way == "behind the output" else {}
    handle, found = gradients_under(rule, model, **options)
    assert [name for name, grad in found.items() if grad is None and not name.startswith("rnn")] == [
        f"spare.{name}" for name, _ in plain.spare.named_parameters()
    ]
    torch.testing.assert_close(model(x), plain(x), rtol=TOLERANCE, atol=TOLERANCE)
    if way == "behind the output":
        model.zero_grad()
        for one in (model, plain):
            one(x)
            one.aside[:, -1].sum().backward()
        assert_same_gradients(gradients(model.spare), gradients(plain.spare), TOLERANCE)
    handle.remove()
    assert not list(model.spare.children())
    assert "forward" not in vars(model.spare)


class Twice(Seeded):
    """One module that runs twice in a forward."""

    def build(self) -> None:
        self.rnn, self.head = nn.LSTM(INPUTS, HIDDEN, batch_first=True), nn.Linear(2 * HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.rnn(x)[0][:, -1], self.rnn(x.flip(1))[0][:, -1]], -1))


def test_each_call_of_a_module_has_feedback_of_its_own() -> None:
    handle, found = gradients_under(fa.DFA(), Twice(0).double())
    first, second = matrices(handle, "rnn.layer0", "rnn.layer0#2").values()
    assert not torch.equal(first, second)
    plain = Twice(0).double()
    output = plain(x)
    (error,) = torch.autograd.grad(cross_entropy(output, y), output)
    parts = [
        taught(plain.rnn, run_of(Case(), _Given(rows), (rows, None))[0], [same_for_all_steps(error, matrix, 5)])
        for rows, matrix in ((x, first), (x.flip(1), second))
    ]
    for name, grad in parts[0].gradients.items():
        total = grad + parts[1].gradients[name]
        torch.testing.assert_close(found[f"rnn.{name}"], total, rtol=TOLERANCE, atol=TOLERANCE)


class StepByStep(Seeded):
    """A loop that calls a module for one step each, with the state of the call before."""

    def build(self, detached: bool = False) -> None:
        self.rnn, self.head = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, CLASSES)
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            output, state = self.rnn(x[:, t : t + 1], state)
            state = state.detach() if self.detached else state
        return self.head(output[:, -1])


def test_a_loop_of_calls_learns_as_one_call_does_where_all_have_the_same_feedback() -> None:
    matrix = torch.randn(CLASSES, HIDDEN, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    feedback = {f"rnn.layer0{'' if number == 1 else f'#{number}'}": matrix for number in range(1, 6)}
    _, found = gradients_under(fa.DFA(), StepByStep(0).double(), feedback=feedback)
    whole = Reader(0, case=Case(readout="last")).double()
    whole.load_state_dict(StepByStep(0).double().state_dict())
    assert_same_gradients(found, gradients_under(fa.DFA(), whole, feedback={"rnn.layer0": matrix})[1], TOLERANCE)


class Started(Seeded):
    """States before the first step that a layer makes, with a point behind it."""

    def build(self, with_point: bool = True) -> None:
        self.init, self.point = nn.Linear(INPUTS, HIDDEN), fa.FeedbackPoint() if with_point else nn.Identity()
        self.rnn, self.head = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = self.point(torch.tanh(self.init(x[:, 0])))
        return self.head(self.rnn(x, state.unsqueeze(0))[1][0])


def test_a_point_teaches_what_makes_an_initial_state() -> None:
    handle, found = gradients_under(fa.DFA(), Started(0).double())
    plain = Started(0).double()
    output = plain(x)
    (error,) = torch.autograd.grad(cross_entropy(output, y), output)
    state = torch.tanh(plain.init(x[:, 0]))
    of_init = torch.autograd.grad(state, plain.init.weight, error @ handle.feedback_at("point"), retain_graph=True)[0]
    torch.testing.assert_close(found["init.weight"], of_init, rtol=TOLERANCE, atol=TOLERANCE)
    run = run_of(Case(), _Given(x), (x, None, state.detach().unsqueeze(0)))[0]
    signal = same_for_all_steps(error, handle.feedback_at("rnn.layer0"), 5)
    for name, grad in taught(plain.rnn, run, [signal]).gradients.items():
        torch.testing.assert_close(found[f"rnn.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_projection_of_the_users_serves_every_step() -> None:
    case = Case(options={"num_layers": 2, "bidirectional": True}, readout="steps")
    feedback = feedback_for(case.model().rnn)
    _, expected, _ = step_of(case, fa.DFA(gamma=0.5), feedback=feedback)
    device = fa.Projection(lambda rows, point: rows @ feedback[point])
    _, found, _ = step_of(case, fa.DFA(gamma=0.5), feedback=device)
    assert_same_gradients(found, expected, TOLERANCE)


def test_steps_may_count_as_features() -> None:
    """One matrix from all outputs to all states, with positions="full"."""
    case = Case(options={"batch_first": False}, readout="steps")
    plain = case.model()
    size = case.num_steps * HIDDEN
    draws = torch.Generator().manual_seed(3)
    matrix = torch.randn(case.num_steps * CLASSES, size, generator=draws, dtype=torch.float64)
    _, found, _ = step_of(case, fa.DFA(positions="full"), feedback={"rnn.layer0": matrix})
    _, error = error_and_vector(case, plain)
    signal = (error.flatten(1) @ matrix).reshape(case.num_samples, case.num_steps, HIDDEN)
    for name, grad in by_hand(case, plain, [signal]).gradients.items():
        torch.testing.assert_close(found[f"rnn.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_description_names_each_layer() -> None:
    model = Case("GRU", {"num_layers": 2, "bidirectional": True}, "embedding").model()
    handle = fa.attach(model, fa.DFA(gamma=0.9), example_inputs=Case(below="embedding").inputs())
    rows = [(row.layer, row.point, row.signal, row.feedback) for row in handle.describe().rows]
    drawn = f"[{CLASSES}, {2 * HIDDEN}] KaimingUniform()"
    assert rows == [
        ("embedding", "rnn.layer0", "dfa: e B, through rnn", drawn),
        ("rnn", "rnn.layer0", "dfa: e B", drawn),
        ("rnn", "rnn.layer1", "dfa: e B", drawn),
        ("head", "output", "error", "-"),
    ]
    assert "gamma=0.9" in str(handle.describe())


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.ActivityPerturbed()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("batch_first", [True, False])
def test_slopes_of_samples_are_not_called_biased_for_steps_first(batch_first: bool, rule: fa.Rule) -> None:
    """The points hold samples first, whatever the layout of the module."""
    case = Case(options={"batch_first": batch_first})
    handle = fa.attach(case.model(), rule, example_inputs=case.inputs())
    assert "biased" not in str(handle.describe())


def test_estimates_that_miss_the_cell_states_of_an_lstm_are_called_biased() -> None:
    for kind, is_noted in (("LSTM", True), ("GRU", False)):
        case = Case(kind)
        handle = fa.attach(case.model(), fa.ActivityPerturbed(), example_inputs=case.inputs())
        noted = [note for note in handle.describe().notes if "cell states of rnn" in note and "biased" in note]
        assert bool(noted) == is_noted
