"""The fully connected networks of Frenkel, Lefebvre and Bol (2021): FC1, FC2 and their like."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def fully_connected(
    input_shape: Sequence[int], widths: Sequence[int], num_outputs: int, *, dropout: float, output: nn.Module
) -> nn.Sequential:
    """Tanh layers and an output layer; images are flattened first.

    Layers are named fc1, tanh1, fc2, tanh2 and so on. Dropout, as in the authors' code, is applied to the
    input of every fully connected layer, so to the pixels as well.

    Args:
        input_shape: Shape of one input, without the batch.
        widths: Units of each hidden layer.
        num_outputs: Output units.
        dropout: Probability of dropping; 0 leaves the dropout layers out.
        output: The non-linearity of the output units, e.g. `nn.Sigmoid()`.

    Returns:
        The network, from [N, *input_shape] to [N, num_outputs].
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(input_shape) > 1:
        layers["flatten"] = nn.Flatten()
    add_fully_connected(layers, math.prod(input_shape), widths, num_outputs, dropout=dropout, first_tanh=1)
    layers["output"] = output
    return nn.Sequential(layers)


def add_fully_connected(
    layers: OrderedDict[str, nn.Module],
    num_inputs: int,
    widths: Sequence[int],
    num_outputs: int,
    *,
    dropout: float,
    first_tanh: int,
) -> None:
    """Append fully connected layers to a stack.

    Args:
        layers: The named layers so far; extended in place.
        num_inputs: Features that the stack gives so far.
        widths: Units of each hidden layer to add.
        num_outputs: Units of the last layer, which gets no non-linearity.
        dropout: Probability of dropping at the input of each layer; 0 adds no dropout layer.
        first_tanh: Number of the first tanh added.
    """
    sizes = [num_inputs, *widths, num_outputs]
    for position, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        if dropout > 0:
            layers[f"dropout{position + 1}"] = nn.Dropout(dropout)
        layers[f"fc{position + 1}"] = nn.Linear(fan_in, fan_out)
        if position < len(widths):
            layers[f"tanh{first_tanh + position}"] = nn.Tanh()
