"""Fully connected networks: the tanh ones of Frenkel et al. (2021), the ReLU ones of Bacho and Chu (2022, 2024)."""

from collections.abc import Sequence

from torch import nn

from feedalign_lab.models.stack import Stack


def fully_connected(stack: Stack, widths: Sequence[int], num_outputs: int, output: nn.Module | None) -> nn.Sequential:
    """Hidden layers and an output layer; images are flattened first.

    Layers are named fc1, tanh1, fc2, tanh2 and so on. Dropout, as in the code of Frenkel et al., is applied to the
    input of every fully connected layer, so to the pixels as well.

    Args:
        stack: The empty stack, which knows inputs, activation, dropout and normalization.
        widths: Units of each hidden layer.
        num_outputs: Output units.
        output: The non-linearity of the output units, e.g. `nn.Sigmoid()`; None for linear ones.

    Returns:
        The network, from [N, *input_shape] to [N, num_outputs].
    """
    stack.flatten()
    for width in widths:
        stack.hidden(width)
    return stack.network(num_outputs, output)
