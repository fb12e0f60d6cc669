"""Cost: products against torch's own counter and the equations, kept tensors against what autograd saves."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.rules.base import DirectRule, LayerwiseRule, LearnedRule
from measure.cost_models import (
    CONVOLUTIONAL,
    GRU,
    LSTM,
    PERCEPTRON,
    RNN,
    ROWS,
    TRANSFORMER,
    WIDTHS,
    Reader,
    counted_by_torch,
    kept_by_torch,
    perceptron,
)
from problems import draw

NETWORKS = {"perceptron": PERCEPTRON, "convolutional": CONVOLUTIONAL, "transformer": TRANSFORMER}
RECURRENT = {"rnn": RNN, "gru": GRU}
PARTS = ("forward", "backward", "feedback", "perturbation")


# The others are of the same kinds.
IN_TIME = (fa.Backprop, fa.Shallow, fa.FA, fa.DFA, fa.DKP, fa.FDFA, fa.ActivityPerturbed, fa.WeightPerturbed)
CASES = [(name, rule) for name in NETWORKS for rule in fa.ALL_RULES]
CASES += [(name, rule) for name in RECURRENT for rule in IN_TIME]


@pytest.mark.parametrize(("name", "rule"), CASES, ids=lambda value: getattr(value, "name", value))
def test_products_and_kept_tensors_are_those_of_a_real_step(name: str, rule: type[fa.Rule]) -> None:
    counted = {**NETWORKS, **RECURRENT}[name]
    with counted.within():
        handle, x, labels = counted.attach(rule())
        found = fa.measure.cost(handle, x)
        assert found.not_counted == ()
        assert found.macs + multiplied_by_zero(name, handle) == counted_by_torch(handle.model, x, labels)
        assert found.kept_bytes == kept_by_torch(handle.model, x)


def multiplied_by_zero(name: str, handle: fa.Handle) -> int:
    """What torch's forward mode multiplies beside: both products of `dx W + x dW`, also those with zeros."""
    if not handle.uses_dual_tensors:
        return 0
    is_perturbed = isinstance(handle.rules[0], fa.WeightPerturbed)
    if name == "transformer":
        # The last point is behind the last block: what LG-FG-A perturbs there meets the head alone.
        of_blocks = 0 if isinstance(handle.rules[0], fa.LocalGreedy) else 4 * 6 * 8 * (3 * 8 + 8 + 16 + 16)
        return 0 if is_perturbed else of_blocks + 4 * 8 * 5
    gates = {"rnn": 1, "gru": 3}[name]
    # Inputs, and the state before the first step, have no tangent.
    return (3 * 6 * 4 * gates * 7 + 3 * 7 * gates * 7) if is_perturbed else 3 * 7 * 5


def matrices() -> list[int]:
    return [ROWS * fan_in * fan_out for fan_in, fan_out in pairwise(WIDTHS)]


def expected(rule: fa.Rule) -> tuple[int, int, int, int]:
    """Products of a perceptron's step by the papers' equations: forward, backward, feedback, tangents."""
    forward, first, outputs = sum(matrices()), matrices()[0], WIDTHS[-1]
    signals = ROWS * outputs * sum(WIDTHS[1:-1])
    inputs = forward - first
    if isinstance(rule, fa.Shallow):
        return forward, matrices()[-1], 0, 0
    if isinstance(rule, LayerwiseRule):
        return forward, forward, inputs, 0
    if isinstance(rule, fa.FDFA):
        return forward, forward, 2 * signals, inputs
    if isinstance(rule, fa.DKP):
        return forward, forward, 2 * signals, 0
    if isinstance(rule, DirectRule):
        return forward, forward, signals, 0
    if isinstance(rule, fa.ActivityPerturbed):
        return forward, forward, 0, inputs
    if isinstance(rule, fa.LocalGreedy):
        # Heads at all points but the last: their output, their tangent and their gradient.
        return forward, forward, 3 * ROWS * outputs * sum(WIDTHS[1:-2]), matrices()[-1]
    if isinstance(rule, fa.WeightPerturbed):
        return forward, 0, 0, forward + inputs
    return forward, forward + inputs, 0, 0


@pytest.mark.parametrize("rule", fa.ALL_RULES, ids=lambda rule: rule.name)
def test_parts_of_a_perceptrons_step_follow_the_equations(rule: type[fa.Rule]) -> None:
    handle, x, _ = PERCEPTRON.attach(rule())
    found = fa.measure.cost(handle, x)
    assert tuple(getattr(found, part) for part in PARTS) == expected(rule())
    assert found.backprop == 3 * sum(matrices()) - matrices()[0]
    assert found.limit == found.macs / found.backprop


@pytest.mark.parametrize("num", [1, 3])
def test_tangents_are_counted_for_each_perturbation(num: int) -> None:
    handle, x, labels = PERCEPTRON.attach(fa.ActivityPerturbed(num_perturbations=num))
    found = fa.measure.cost(handle, x)
    assert found.perturbation == num * (sum(matrices()) - matrices()[0])
    assert found.macs == counted_by_torch(handle.model, x, labels)


def test_what_the_papers_say_of_the_cost() -> None:
    widths = (512, 512, 512, 512, 4)
    layers = [nn.Sequential(nn.Linear(i, o), nn.Tanh()) for i, o in pairwise(widths[:-1])]
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    with fa.attach(nn.Sequential(*layers, nn.Linear(512, 4)), fa.DRTP(), example_inputs=x) as handle:
        drtp = fa.measure.cost(handle, x)
    # "approximately equal to the cost of the forward pass": Frenkel et al. 2021, section 3.
    assert 1 <= (drtp.backward + drtp.feedback) / drtp.forward < 1.01
    with fa.attach(nn.Sequential(*layers, nn.Linear(512, 4)), fa.FDFA(), example_inputs=x) as handle:
        fdfa = fa.measure.cost(handle, x)
    # "double the amount": Bacho & Chu 2022, section IV-F; the first of three layers carries no tangent.
    assert (fdfa.forward + fdfa.perturbation) / fdfa.forward == pytest.approx(2 - 1 / 3, rel=0.01)


def test_streaming_keeps_the_output_layers_input_alone_and_multiplies_nothing_for_signals() -> None:
    handle, x, labels = PERCEPTRON.attach(fa.DRTP())
    waiting = fa.measure.cost(handle, x)
    handle.targets(labels)
    streaming = fa.measure.cost(handle, x)
    assert handle.is_streaming
    assert all(p.grad is None for p in handle.model.parameters())
    # The output layer's input; the last hidden activation holds the same memory.
    assert [row.kept_bytes for row in streaming.layers] == [0, 0, 0, 4 * ROWS * 14]
    assert streaming.kept_bytes < waiting.kept_bytes / 3
    assert (streaming.feedback, streaming.backward) == (0, waiting.backward)
    assert streaming.moved.feedback_read == 4 * ROWS * sum(WIDTHS[1:-1])


def test_a_fused_lstm_is_counted_by_the_equations() -> None:
    """Torch's counter does not know it: four gates of inputs and states; the first state has no gradient."""
    handle, x, _ = LSTM.attach(fa.Backprop())
    rows, inputs, states = 3 * 6, 4 * 4 * 7, 4 * 7 * 7
    of_head = 3 * 7 * 5
    found = fa.measure.cost(handle, x)
    assert found.forward == rows * (inputs + states) + of_head
    assert found.backward == rows * (inputs + states) + 5 * 3 * states + 2 * of_head


def test_local_steps_have_the_weights_gradients_alone_and_no_products_between_steps() -> None:
    inputs, states, of_head = 3 * 4 * 7, 3 * 7 * 7, 3 * 7 * 5
    handle, x, _ = GRU.attach(fa.DFA())
    found = fa.measure.cost(handle, x)
    # The state before the first of six steps is zero; every signal is that of the whole sequence.
    assert found["rnn"].backward == 3 * 6 * inputs + 3 * 5 * states
    assert found["rnn"].feedback == of_head
    assert found["rnn"].rule == "dfa"


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_layers_and_directions_of_a_recurrent_module_are_one_row(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model = Reader(kind, batch_first=True, num_layers=2, bidirectional=True)
    model.head = nn.Linear(14, 5)
    x, labels = draw(3, 6, 4, seed=1, dtype=torch.float32), torch.arange(3)
    handle = fa.attach(model, fa.DKP(), example_inputs=x)
    found = fa.measure.cost(handle, x)
    assert [row.layer for row in found.layers] == ["rnn", "head"]
    assert found["rnn"].feedback_bytes == 2 * 4 * 5 * 14
    assert found.macs == counted_by_torch(model, x, labels)


def test_feedback_that_is_shared_is_multiplied_once() -> None:
    model, x, labels = perceptron()
    handle = fa.attach(model, fa.DFA(), example_inputs=x, feedback="launay2020")
    found = fa.measure.cost(handle, x)
    assert found.feedback == ROWS * 5 * max(WIDTHS[1:-1])
    assert found.macs == counted_by_torch(model, x, labels)


def test_late_errors_are_not_made_later_and_compiled_models_are_counted_too() -> None:
    handle, x, labels = PERCEPTRON.attach(fa.DFA(limits=fa.Limits(delay=2)))
    expected_macs = fa.measure.cost(PERCEPTRON.attach(fa.DFA())[0], x).macs
    assert fa.measure.cost(handle, x).macs == expected_macs
    torch.nn.functional.cross_entropy(handle.model(x), labels).backward()
    assert handle.model[0].weight.grad is None or not handle.model[0].weight.grad.any()
    handle.remove()
    handle.model.compile(backend="eager")
    assert fa.measure.cost(handle.model, x).limit == 1


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("rule", [fa.DFA, fa.Backprop], ids=lambda rule: rule.name)
def test_the_layout_of_sequences_changes_nothing(rule: type[fa.Rule], batch_first: bool) -> None:
    x = draw(3, 6, 4, seed=1, dtype=torch.float32)
    model = Reader(nn.LSTM, batch_first=batch_first)
    x = x if batch_first else x.transpose(0, 1)
    handle = fa.attach(model, rule(), example_inputs=x)
    assert fa.measure.cost(handle, x).macs == {"dfa": 10815, "backprop": 14343}[rule.name]


def test_fused_attention_makes_its_scores_again_in_the_backward() -> None:
    model, x, _ = TRANSFORMER.make()
    fused = fa.measure.cost(model, x)
    with TRANSFORMER.within():
        apart = fa.measure.cost(model, x)
    scores = 2 * 4 * 2 * 6 * 6 * 4
    assert fused.macs - apart.macs == scores
    assert fused.kept_bytes < apart.kept_bytes


def test_grouped_and_transposed_convolutions_and_bilinear_layers() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Torch's own counter takes the weight gradient of a grouped convolution for that of one without groups.
            self.grouped = nn.Conv1d(4, 6, 3, groups=2)
            self.up, self.bilinear = nn.ConvTranspose1d(6, 4, 3, stride=2, groups=2), nn.Bilinear(4, 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(self.grouped(x)).mean(-1)
            return self.bilinear(h, h)

    found = fa.measure.cost(Odd(), torch.ones(2, 4, 8))
    assert found["grouped"].forward == found["grouped"].backward == 2 * 6 * 6 * (4 // 2) * 3
    assert found["up"].forward == 2 * 6 * 6 * (4 // 2) * 3
    assert found["up"].backward == 2 * found["up"].forward
    assert found["bilinear"].forward == 2 * 4 * 4 * 5 + 2 * 5 * 4


def test_embeddings_norms_and_activations_have_no_products_and_keep_what_they_must() -> None:
    model, x, _ = TRANSFORMER.make()
    found = fa.measure.cost(model, x)
    assert found["emb"].macs == found["blocks.0.norm1"].macs == 0
    assert [kept.what for kept in found["emb"].kept] == ["input"]
    assert {kept.what for kept in found["blocks.0.norm1"].kept} == {
        "NativeLayerNorm.input",
        "NativeLayerNorm.result1",
        "NativeLayerNorm.result2",
    }


@torch.library.custom_op("feedalign_tests::product", mutates_args=())
def product(left: Tensor, right: Tensor) -> Tensor:
    return left @ right


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = Square.apply(self.first(x))
        return self.second(h + product(h.detach(), torch.eye(4)))


def test_products_that_nobody_counts_are_named_rather_than_zero() -> None:
    found = fa.measure.cost(Strange(), torch.ones(2, 4))
    assert found["first"].not_counted == ("the backward of Square",)
    assert found[""].not_counted == ("feedalign_tests::product",)
    assert found.not_counted == ("the backward of Square", "feedalign_tests::product")
    assert "not counted in (model): feedalign_tests::product" in str(found)
    assert " + ?" in str(found)
    assert f"about {found.limit:.3f} of backprop's" in str(found)


@dataclass(frozen=True)
class Twice(LearnedRule):
    """A rule of somebody's own that projects twice and learns by a product."""

    name: ClassVar[str] = "twice"
    paper: ClassVar[str] = "nowhere"
    signal: ClassVar[str] = "e M B"
    reads_activations: ClassVar[bool] = True

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error @ torch.eye(error.shape[-1])

    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return error.T @ evidence


def test_a_rule_of_ones_own_is_counted_by_what_its_functions_multiply() -> None:
    handle, x, labels = PERCEPTRON.attach(Twice())
    found = fa.measure.cost(handle, x)
    # Broadcast once for all points.
    assert found.feedback == 2 * ROWS * 5 * sum(WIDTHS[1:-1]) + ROWS * 5 * 5
    assert found.macs == counted_by_torch(handle.model, x, labels)


def test_a_converted_matrix_moves_as_the_one_that_is_held() -> None:
    for rule in (fa.DFA, fa.DKP):
        exact, x, _ = PERCEPTRON.attach(rule())
        limited, x, _ = PERCEPTRON.attach(rule(limits=fa.Limits(feedback=fa.Quantized(4), error=fa.Ternarized())))
        assert fa.measure.cost(limited, x) == fa.measure.cost(exact, x)


def test_a_matrix_of_another_dtype_than_the_activations_moves_as_feedback() -> None:
    exact, x, _ = PERCEPTRON.attach(fa.DFA())
    halved, x, _ = PERCEPTRON.attach(fa.DFA())
    halved.store.half()
    found, full = fa.measure.cost(halved, x).moved, fa.measure.cost(exact, x).moved
    assert (found.feedback_read, found.errors_read) == (full.feedback_read, full.errors_read)


@pytest.mark.parametrize("delay", [1, 3])
def test_a_delay_writes_each_gradient_to_where_it_waits_and_reads_the_one_that_is_due(delay: int) -> None:
    prompt, x, _ = PERCEPTRON.attach(fa.DKP())
    late, x, _ = PERCEPTRON.attach(fa.DKP(limits=fa.Limits(delay=delay)))
    # A frozen weight has no gradient that could wait.
    prompt.model[2].weight.requires_grad_(False)
    late.model[2].weight.requires_grad_(False)
    hidden = 4 * sum(p.numel() for name, p in late.model.named_parameters() if name[0] in "024" and p.requires_grad)
    matrices_held = 4 * sum(WIDTHS[1:-1]) * WIDTHS[-1]
    at_once, found = fa.measure.cost(prompt, x).moved, fa.measure.cost(late, x).moved
    assert found == replace(
        at_once,
        weights_read=at_once.weights_read + hidden,
        weights_written=at_once.weights_written + hidden,
        feedback_read=at_once.feedback_read + matrices_held,
        feedback_written=at_once.feedback_written + matrices_held,
    )
