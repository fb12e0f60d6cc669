"""`describe()`: what teaches each layer, as a table."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Convolutional, Perceptron, SharedActivation, SharedLinear, TakesBranch, batch, images
from attach.sequence_models import Tokens, tokens

x, y = batch()


def lines(handle: fa.Handle) -> list[tuple[str, str, str, str, bool | None]]:
    return [(row.layer, row.point, row.signal, row.feedback, row.fired) for row in handle.describe().rows]


def test_dfa_on_a_perceptron() -> None:
    assert lines(fa.attach(Perceptron(), fa.DFA(), example_inputs=x)) == [
        ("fc1", "act1", "dfa: e B", "[3, 7] KaimingUniform()", None),
        ("fc2", "act2", "dfa: e B", "[3, 6] KaimingUniform()", None),
        ("head", "output", "error", "-", None),
    ]


def test_fa_on_a_perceptron() -> None:
    handle = fa.attach(Perceptron(), fa.FA(), example_inputs=x)
    assert [(layer, signal) for layer, _, signal, _, _ in lines(handle)] == [
        ("fc1", "fa: delta R"),
        ("fc2", "fa: delta R"),
        ("head", "error"),
    ]
    assert [feedback for _, _, _, feedback, _ in lines(handle)] == [
        "[6, 7] fixed, at fc2",
        "[3, 6] fixed, at head",
        "-",
    ]


@pytest.mark.parametrize(("rule", "feedback"), [(fa.USF(), "from W"), (fa.BRSF(), "drawn at every forward")])
def test_where_layerwise_feedback_comes_from(rule: fa.Rule, feedback: str) -> None:
    assert {row[3] for row in lines(fa.attach(Perceptron(), rule, example_inputs=x))} == {
        f"{feedback}, at fc2",
        f"{feedback}, at head",
        "-",
    }


@pytest.mark.parametrize(("rule", "feedback"), [
    (fa.DKP(), "learned from Zeros()"),
    (fa.FDFA(), "learned from Zeros()"),
    (fa.FDFA(update="ema"), "learned from Zeros()"),
])  # fmt: skip
def test_learned_feedback(rule: fa.Rule, feedback: str) -> None:
    assert lines(fa.attach(Perceptron(), rule, example_inputs=x)) == [
        ("fc1", "act1", f"{rule.name}: e B, B learned", f"[3, 7] {feedback}", None),
        ("fc2", "act2", f"{rule.name}: e B, B learned", f"[3, 6] {feedback}", None),
        ("head", "output", "error", "-", None),
    ]
    given = {"act1": torch.randn(3, 7), "act2": torch.randn(3, 6)}
    handle = fa.attach(Perceptron(), rule, example_inputs=x, feedback=given)
    assert lines(handle)[0][3] == "[3, 7] learned from given"


def test_perturbed_activations() -> None:
    assert lines(fa.attach(Perceptron(), fa.ActivityPerturbed(), example_inputs=x)) == [
        ("fc1", "act1", "fg-a: (e . JU) U", "-", None),
        ("fc2", "act2", "fg-a: (e . JU) U", "-", None),
        ("head", "output", "error", "-", None),
    ]


def test_local_heads() -> None:
    assert lines(fa.attach(Perceptron(), fa.LocalGreedy(), example_inputs=x)) == [
        ("fc1", "act1", "lg-fg-a: (e . JU) U, local loss", "[3, 7] head, learned from ScaledUniform()", None),
        ("fc2", "act2", "lg-fg-a: (e . JU) U, local loss", "-", None),
        ("head", "output", "error", "-", None),
    ]


@pytest.mark.parametrize("rule", [fa.WeightPerturbed(), fa.NoisyBackprop()])
def test_rules_of_parameters_name_all_layers_alike(rule: fa.Rule) -> None:
    signal = f"{rule.name}: {rule.signal}"
    expected = [(layer, "-", signal, "-", None) for layer in ("fc1", "fc2", "head")]
    assert lines(fa.attach(Perceptron(), rule, example_inputs=x)) == expected


def test_shallow_sends_no_signal() -> None:
    assert lines(fa.attach(Perceptron(), fa.Shallow(), example_inputs=x)) == [
        ("fc1", "act1", "shallow: none", "-", None),
        ("fc2", "act2", "shallow: none", "-", None),
        ("head", "output", "error", "-", None),
    ]


def test_backprop_is_exact_everywhere() -> None:
    handle = fa.attach(Perceptron(), fa.Backprop(), example_inputs=x)
    assert [(layer, signal) for layer, _, signal, _, _ in lines(handle)] == [
        ("fc1", "exact gradient from the layers above"),
        ("fc2", "exact gradient from the layers above"),
        ("head", "error"),
    ]


def test_a_mixture_names_both_rules() -> None:
    rule = {"conv*": fa.Shallow(), "fc*": fa.DRTP()}
    handle = fa.attach(Convolutional(), rule, example_inputs=images()[0])
    assert [(layer, point, signal, feedback) for layer, point, signal, feedback, _ in lines(handle)] == [
        ("conv1", "act1", "shallow: none", "-"),
        ("conv2", "act2", "shallow: none", "-"),
        ("fc1", "act3", "drtp: -s y B", "[3, 8] KaimingUniform()"),
        ("fc2", "output", "error", "-"),
    ]
    assert "Shallow()" in handle.describe().rule
    assert "DRTP(" in handle.describe().rule


def test_a_convolutions_feedback_is_full_and_tokens_share_theirs() -> None:
    conv = fa.attach(Convolutional(), fa.DFA(), example_inputs=images()[0])
    assert [row[3].split(" K")[0] for row in lines(conv)[:3]] == ["[3, 144]", "[3, 12]", "[3, 8]"]
    positions = fa.attach(Tokens(), fa.DFA(), example_inputs=tokens()[0])
    assert {row[0]: row[3].split(" K")[0] for row in lines(positions) if row[1] != "output"} == {
        "embedding": "[3, 7]",
        "fc1": "[3, 7]",
        "fc2": "[3, 6]",
    }


@pytest.mark.parametrize(("feedback", "words"), [
    (fa.Orthogonal(), "Orthogonal(gain=1.0)"),
    ("nokland2016", "ScaledUniform()"),
    ({"act1": torch.randn(3, 7), "act2": torch.randn(3, 6)}, "given"),
    (fa.Projection(lambda rows, name: rows), "projected by the user's device"),
])  # fmt: skip
def test_the_origin_of_the_feedback_is_named(feedback: object, words: str) -> None:
    handle = fa.attach(Perceptron(), fa.DFA(), example_inputs=x, feedback=feedback)
    assert lines(handle)[0][3] == f"[3, 7] {words}"


@pytest.mark.parametrize("rule", [fa.DFA(), fa.Shallow(), fa.DRTP(), fa.FA(), fa.BRSF(), fa.FDFA()])
def test_points_are_told_to_have_fired_after_a_forward_with_gradients(rule: fa.Rule) -> None:
    model = Perceptron()
    handle = fa.attach(model, rule, example_inputs=x)
    with torch.no_grad():
        model(x)
    assert {row[4] for row in lines(handle)} == {None}
    assert " yes" not in str(handle.describe())
    model(x)
    hidden = [fired for layer, _, _, _, fired in lines(handle) if layer != "head"]
    assert hidden == [True, True]
    assert str(handle.describe()).count(" yes") >= 2


def test_a_point_that_did_not_fire_is_told_so() -> None:
    model = TakesBranch()
    handle = fa.attach(model, fa.DFA(), example_inputs=x, points=["act1", "act2"])
    model(x)
    model.short = True
    with pytest.raises(fa.errors.PointNotFiredError):
        model(x)
    fired = {row[1]: row[4] for row in lines(handle)}
    assert fired["act1"] is True
    assert fired["act2"] is False
    assert " NO" in str(handle.describe())


def test_every_call_of_a_shared_module_has_its_row() -> None:
    shared = fa.attach(SharedActivation(), fa.DFA(), example_inputs=x)
    assert [(row[0], row[1]) for row in lines(shared)] == [("fc1", "act"), ("fc2", "act#2"), ("head", "output")]
    twice = fa.attach(SharedLinear(), fa.DFA(), example_inputs=x)
    assert [(row[0], row[1]) for row in lines(twice)] == [
        ("fc1", "act1"), ("fc2", "act2"), ("fc2", "act3"), ("head", "output"),
    ]  # fmt: skip


def test_frozen_layers_have_no_row_and_unused_ones_a_note() -> None:
    model = Perceptron()
    model.fc1.requires_grad_(False)
    model.spare = nn.Linear(2, 2)
    description = fa.attach(model, fa.DFA(), example_inputs=x).describe()
    assert "fc1" not in [row.layer for row in description.rows]
    assert any("spare" in note and "no signal reaches" in note for note in description.notes)


def test_the_table_shows_all_of_it() -> None:
    handle = fa.attach(Perceptron(), fa.DFA(), example_inputs=x)
    head, title, rule, *body = str(handle.describe()).splitlines()
    assert head == "DFA(positions='auto', gamma=1.0), error taken at the model's output"
    assert title.split() == ["layer", "feedback", "point", "signal", "feedback", "fired"]
    assert set(rule) == {"-"}
    assert len(body) == 3
    assert body[0].split() == ["fc1", "act1", "dfa:", "e", "B", "[3,", "7]", "KaimingUniform()", "-"]


def test_the_description_is_plain_data_too() -> None:
    import json

    model = Perceptron()
    handle = fa.attach(model, fa.DFA(), example_inputs=x)
    F.cross_entropy(model(x), y).backward()
    data = json.loads(json.dumps(handle.describe().to_dict()))
    assert data["rows"][0]["point"] == "act1"
    assert data["rows"][0]["fired"] is True


def test_notes_say_where_samples_meet_or_do_not_come_first() -> None:
    x = torch.randn(4, 5)
    norm = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    (note,) = fa.attach(norm, fa.ActivityPerturbed(), example_inputs=x).describe().notes
    assert note == "samples meet in 1: estimates of layers below are biased in training mode"

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act = nn.Linear(5, 8), nn.Tanh()
            self.attention, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.act(self.up(x))
            return self.head(self.attention(h, h, h, need_weights=True)[0])

    notes = fa.attach(TimeFirst(), fa.ActivityPerturbed(), example_inputs=torch.randn(3, 4, 5)).describe().notes
    assert any("the first size of what attention takes is time" in note for note in notes)
    assert not any(
        "samples" in note
        for note in fa.attach(TimeFirst(), fa.FDFA(), example_inputs=torch.randn(3, 4, 5)).describe().notes
    )


def test_a_layer_of_which_one_parameter_is_used_is_not_called_unused() -> None:
    class WeightAlone(Perceptron):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.act2(self.fc2(self.act1(self.fc1(x)))), self.head.weight)

    description = fa.attach(WeightAlone(), fa.DFA(), example_inputs=x).describe()
    assert description.rows[-1].layer == "head"
    assert description.notes == ()


class WithTeacher(Perceptron):
    """Two layers that no gradient reaches: one runs without gradients, what the other makes is detached."""

    def build(self) -> None:
        super().build()
        self.hidden, self.detached = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden = self.hidden(x)
        return super().forward(x) + hidden + self.detached(x).detach()


def test_layers_that_run_without_gradients_are_not_called_unused() -> None:
    notes = fa.attach(WithTeacher(), fa.DFA(), example_inputs=x).describe().notes
    assert notes[0] == "no signal reaches hidden: run without gradients, as under torch.no_grad()"
    assert notes[1].startswith("the output is not made with detached")


@pytest.mark.parametrize("rule", [fa.WeightPerturbed(), fa.NoisyBackprop()])
def test_rules_of_weights_send_nothing_where_no_gradient_comes(rule: fa.Rule) -> None:
    model = WithTeacher()
    handle = fa.attach(model, rule, example_inputs=x)
    F.cross_entropy(model(x), y).backward()
    assert [row.layer for row in handle.describe().rows] == ["fc1", "fc2", "head"]
    assert model.hidden.weight.grad is None
    assert model.detached.weight.grad is None


def test_layers_beside_the_output_are_not_called_unused() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.act = nn.Linear(5, 6), nn.Tanh()
            self.one, self.other, self.idle = nn.Linear(6, 3), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.act(self.body(x))
            return self.one(h), self.other(h)

    notes = fa.attach(TwoHeads(), fa.DFA(), example_inputs=torch.randn(4, 5), output="one").describe().notes
    assert notes[0] == "no signal reaches idle: unused in the forward on the example inputs"
    assert notes[1].startswith("the output is not made with other: a loss on what they return")


@pytest.mark.parametrize("rule", [fa.WeightPerturbed(), fa.NoisyBackprop()])
def test_rules_of_weights_tell_that_they_fired(rule: fa.Rule) -> None:
    x = torch.randn(4, 5)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    handle = fa.attach(model, rule, example_inputs=x)
    assert [row.fired for row in handle.describe().rows] == [None, None]
    model(x)
    assert [row.fired for row in handle.describe().rows] == [True, True]


class TwoResults(Perceptron):
    """An output where the error is taken, and another result."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.act1(self.fc1(x))
        return self.head(self.act2(self.fc2(h))), h.sum(1)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.ActivityPerturbed()], ids=lambda rule: rule.name)
def test_a_forward_that_no_error_has_answered_is_told(rule: fa.Rule) -> None:
    model = TwoResults()
    handle = fa.attach(model, rule, example_inputs=x, output="head")

    def is_told() -> bool:
        return any("no error has come back" in note for note in handle.describe().notes)

    assert not is_told()
    logits, other = model(x)
    assert is_told()
    nn.functional.cross_entropy(logits, y).backward()
    assert not is_told()
    for _ in range(3):
        logits, other = model(x)
        (other.sum() + 0 * next(model.parameters()).sum()).backward()
        assert is_told()
    with torch.no_grad():
        model(x)
    assert is_told()
    for _ in range(3):
        nn.functional.cross_entropy(model(x)[0], y).backward()
        assert not is_told()


@pytest.mark.parametrize("rule", [fa.FA(), fa.Backprop(), fa.Shallow()], ids=lambda rule: rule.name)
def test_rules_that_broadcast_nothing_await_no_error(rule: fa.Rule) -> None:
    model = Perceptron()
    handle = fa.attach(model, rule, example_inputs=x)
    model(x)
    assert not any("no error" in note for note in handle.describe().notes)


def test_an_error_is_not_awaited_where_functions_are_transformed_or_targets_were_given() -> None:
    model = Perceptron()
    handle = fa.attach(model, fa.DRTP(), example_inputs=x)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    assert not any("no error" in note for note in handle.describe().notes)
    handle.targets(y)
    model(x)
    assert not any("no error" in note for note in handle.describe().notes)
