"""Behind a softmax or a sigmoid the sign of the error is known from the label alone (Frenkel et al. 2021, section 2.2).

So sDFA's signals, but for the scale of the loss, do not depend on what the network says; DFA's do.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa

NUM_CLASSES, NUM_SAMPLES = 6, 7
LOSSES = {
    "softmax": F.cross_entropy,
    "sigmoid": lambda output, labels: F.binary_cross_entropy_with_logits(
        output, F.one_hot(labels, NUM_CLASSES).to(output.dtype)
    ),
}
links = pytest.mark.parametrize("link", list(LOSSES))


@links
@given(logits=st.lists(st.floats(-30, 30), min_size=NUM_CLASSES, max_size=NUM_CLASSES), label=st.integers(0, 5))
def test_the_error_is_negative_at_the_label_and_positive_everywhere_else(
    link: str, logits: list[float], label: int
) -> None:
    output = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    LOSSES[link](output, torch.tensor([label])).backward()
    expected = 1 - 2 * F.one_hot(torch.tensor([label]), NUM_CLASSES)
    assert output.grad is not None
    # A prediction within rounding of its target has no error left, and so no sign.
    seen = output.grad != 0
    assert torch.equal(output.grad.sign()[seen].long(), expected[seen])


def hidden_gradients(rule: fa.Rule, link: str, seed: int) -> Tensor:
    """The gradient of the first layer: same inputs, weights and feedback below, another output layer for each seed."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (NUM_SAMPLES, 4), "w": (5, 4), "b": (NUM_CLASSES, 5)}
    drawn = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, NUM_CLASSES, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(drawn["w"])
        model[2].weight.copy_(torch.randn(NUM_CLASSES, 5, generator=torch.Generator().manual_seed(seed)).double())
    fa.attach(model, rule, example_inputs=drawn["x"], feedback={"1": drawn["b"]})
    LOSSES[link](model(drawn["x"]), torch.arange(NUM_SAMPLES) % NUM_CLASSES).backward()
    assert model[0].weight.grad is not None
    return model[0].weight.grad


@links
def test_signals_made_of_the_sign_are_the_same_whatever_the_network_says(link: str) -> None:
    first, second = (hidden_gradients(fa.SignDFA(link=link), link, seed) for seed in (2, 3))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


@links
def test_signals_made_of_the_error_are_not(link: str) -> None:
    first, second = (hidden_gradients(fa.DFA(), link, seed) for seed in (2, 3))
    assert float((first - second).norm()) > 0.01 * float(first.norm())
