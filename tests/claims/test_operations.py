"""How many multiplications a step takes, and how many numbers feedback is: counted by torch, and by hand.

A product of N rows with a matrix of n x m takes N * n * m multiplications and additions. Of a network n0-n1-...-nL the
forward takes that of every layer, the gradients of the weights the same again, and backprop once more all but that of
the first layer.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import feedalign as fa

WIDTHS = (11, 17, 13, 19, 5)
NUM_SAMPLES, NUM_CLASSES = 8, WIDTHS[-1]
LAYERS = [fan_in * fan_out for fan_in, fan_out in pairwise(WIDTHS)]
HIDDEN = sum(WIDTHS[1:-1])

# Multiply-adds for one sample.
FORWARD = WEIGHTS = sum(LAYERS)
TRANSPORT = sum(LAYERS[1:])
FEEDBACK = NUM_CLASSES * HIDDEN
TANGENTS = sum(LAYERS[1:])


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def counted(rule: fa.Rule, streaming: bool = False) -> int:
    """Multiply-adds per sample of a forward and a backward."""
    model, x = network(), torch.ones(NUM_SAMPLES, WIDTHS[0])
    labels = torch.arange(NUM_SAMPLES) % NUM_CLASSES
    handle = fa.attach(model, rule, example_inputs=x)
    if streaming:
        handle.targets(labels)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(x), labels).backward()
    total, rest = divmod(counter.get_total_flops(), 2 * NUM_SAMPLES)
    assert rest == 0
    return total


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (fa.Backprop(), FORWARD + WEIGHTS + TRANSPORT),
        (fa.DFA(), FORWARD + WEIGHTS + FEEDBACK),
        (fa.SignDFA(), FORWARD + WEIGHTS + FEEDBACK),
        (fa.FA(), FORWARD + WEIGHTS + TRANSPORT),
        (fa.Shallow(), FORWARD + LAYERS[-1]),
        (fa.DKP(), FORWARD + WEIGHTS + 2 * FEEDBACK),
        (fa.FDFA(), FORWARD + TANGENTS + WEIGHTS + 2 * FEEDBACK),
    ],
    ids=lambda value: value.name if isinstance(value, fa.Rule) else "",
)
def test_multiplications_of_a_step(rule: fa.Rule, expected: int) -> None:
    assert counted(rule) == expected


def test_a_row_of_the_feedback_is_looked_up_without_any_multiplication() -> None:
    assert counted(fa.DRTP(), streaming=True) == FORWARD + WEIGHTS


def test_direct_feedback_is_as_many_numbers_as_classes_times_hidden_units() -> None:
    model = network()
    handle = fa.attach(model, fa.DFA(), example_inputs=torch.ones(2, WIDTHS[0]))
    assert sum(buffer.numel() for buffer in handle.store.buffers()) == FEEDBACK
    layerwise = network()
    handle = fa.attach(layerwise, fa.FA(), example_inputs=torch.ones(2, WIDTHS[0]))
    assert sum(buffer.numel() for buffer in handle.store.buffers()) == TRANSPORT
