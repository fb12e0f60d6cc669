"""What people put around the step of a Transformer: mixed precision, accumulation, checkpointed blocks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from feedalign import errors
from integration.gradients import (
    ALL_RULES,
    WITHOUT_DRAWS,
    Gradients,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    cross_entropy,
    gradients,
    gradients_of_step,
    is_learned_feedback,
    step,
)
from integration.transformer_blocks import MACRO, MICRO, Transformer, by_plain_attention, language_model, text

x, y = text(8)
names = {"ids": lambda rule: rule.name}
SHAPES = [("pre", "macro"), ("pre", "micro"), ("post", "macro"), ("post", "micro")]
BFLOAT16_TOLERANCE = 0.05
every_shape = pytest.mark.parametrize(("norm", "level"), SHAPES)
every_rule = pytest.mark.parametrize("rule", ALL_RULES, **names)


def assert_close_in_norm(found: Gradients, expected: Gradients, tolerance: float) -> None:
    for name, value in expected.items():
        other = found[name]
        assert (value is None) == (other is None), name
        if value is not None:
            assert torch.linalg.vector_norm(other - value) <= tolerance * torch.linalg.vector_norm(value), name


@every_rule
@every_shape
def test_autocast_gives_the_same_gradients_within_its_precision(rule: fa.Rule, norm: str, level: str) -> None:
    model, plain = (language_model(rule, norm, level) for _ in range(2))
    with by_plain_attention(rule):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x)
            loss = cross_entropy(output, y)
        assert output.dtype == torch.bfloat16
        loss.backward()
        step(plain, x, y)
    assert_close_in_norm(gradients(model), gradients(plain), BFLOAT16_TOLERANCE)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
    assert_hidden_layers_learn(gradients(model), rule)


# What these add to the gradients does not come from the loss, and is divided all the same.
UNSCALED = (fa.NoisyBackprop,)


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if not isinstance(rule, UNSCALED)], **names)
@every_shape
def test_a_grad_scaler_scales_and_unscales_every_layer(rule: fa.Rule, norm: str, level: str) -> None:
    model, plain = (language_model(rule, norm, level) for _ in range(2))
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    with by_plain_attention(rule):
        step(plain, x, y)
        scaler.scale(cross_entropy(model(x), y)).backward()
    scaler.unscale_(optimizer)
    expected = gradients(plain)
    if isinstance(rule, fa.FDFA):  # how far feedback is from the Jacobian does not depend on the loss
        expected = {name: grad / 2**12 if is_learned_feedback(name) else grad for name, grad in expected.items()}
    assert_same_gradients(gradients(model), expected)


@pytest.mark.parametrize("rule", WITHOUT_DRAWS, **names)
@every_shape
@pytest.mark.parametrize("sizes", [(4, 4), (5, 3)])
def test_micro_batches_add_up_to_the_batch(rule: fa.Rule, norm: str, level: str, sizes: tuple[int, ...]) -> None:
    model, plain = (language_model(rule, norm, level) for _ in range(2))
    for inputs, labels in zip(x.split(sizes), y.split(sizes), strict=True):
        step(model, inputs, labels, scale=len(inputs) / len(x))
    step(plain, x, y)
    assert_same_gradients(gradients(model), gradients(plain))
    assert_hidden_layers_learn(gradients(model), rule)


class Checkpointed(Transformer):
    """Every block runs again in the backward; the blocks may drop out."""

    def __init__(self, again: bool, **options: Any) -> None:
        super().__init__(**options)
        self.again = again

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[-1]))
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=False) if self.again else block(h)
        return self.head(self.norm_out(h))


def checkpointed(rule: fa.Rule, norm: str, level: str, again: bool) -> nn.Module:
    rule = fa.DRTP(allow_unbounded=True) if isinstance(rule, fa.DRTP) else rule
    points = MACRO if level == "macro" else MICRO
    with by_plain_attention(rule):
        return attached(lambda: Checkpointed(again, norm=norm), rule, x, points=points)


@every_rule
@every_shape
def test_checkpointed_blocks_learn_alike(rule: fa.Rule, norm: str, level: str) -> None:
    plain = checkpointed(rule, norm, level, again=False)

    def teach(model: nn.Module) -> Gradients:
        with by_plain_attention(rule):
            gradients_of_step(model, x, y)
            return gradients_of_step(model, x, y)

    expected = teach(plain)
    assert_taught_or_refused(lambda: teach(checkpointed(rule, norm, level, again=True)), expected, rule)
    assert_hidden_layers_learn(expected, rule)


def assert_taught_or_refused(teach: Callable[[], Gradients], expected: Gradients, rule: fa.Rule) -> None:
    refusals = {
        fa.BRSF: r"draws anew.*fa\.FRSF\(\)",
        fa.FDFA: "dual tensors.*more is saved",
        fa.ActivityPerturbed: "dual tensors.*more is saved",
    }
    if type(rule) in refusals:
        with pytest.raises(errors.CheckpointingError, match=refusals[type(rule)]):
            teach()
        return
    assert_same_gradients(teach(), expected)
