"""Recurrent networks: one recurrent module, and a linear readout of its last step or of every step."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from feedalign_lab.models.naming import NetworkName
from feedalign_lab.models.stack import Stack

_TORCH_MODULES: Mapping[str, Callable[..., nn.Module]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class LastStep(nn.Module):
    """The output of a recurrent module after the last step."""

    def forward(self, ran: tuple[Tensor, Any]) -> Tensor:
        """Pass on the last step.

        Args:
            ran: What the recurrent module returned: its output [N, T, H], and its final state.

        Returns:
            [N, H].
        """
        return ran[0][:, -1]


class EveryStep(nn.Module):
    """The output of a recurrent module at all steps, without its final state."""

    def forward(self, ran: tuple[Tensor, Any]) -> Tensor:
        """Pass on the output.

        Args:
            ran: What the recurrent module returned: its output [N, T, H], and its final state.

        Returns:
            [N, T, H].
        """
        return ran[0]


def recurrent(
    stack: Stack, name: NetworkName, num_inputs: int, num_outputs: int, *, is_every_step: bool
) -> nn.Sequential:
    """A recurrent module from a state of zeros, and a linear readout.

    Layers are named after the cell (rnn, gru or lstm), last or steps, and fc1. The cell of "rnn" is that of
    `torch.nn.RNN` with tanh, "gru" and "lstm" are torch's own, and "gru-before" is the GRU that resets the state before
    it multiplies it, `feedalign.nn.GRU(reset="before")`. Weights are those modules' own draw. Dropout is at the input
    of the readout alone.

    Args:
        stack: The empty stack.
        name: Cell, layers and width.
        num_inputs: Numbers at each step.
        num_outputs: Output units.
        is_every_step: Whether there is an output at every step.

    Returns:
        The network, from [N, T, num_inputs] to [N, num_outputs], or to [N, T, num_outputs].
    """
    cell = name.family.partition("-")[0]
    layers: dict[str, nn.Module] = {cell: _module(name, num_inputs)}
    if is_every_step:
        layers["steps"] = EveryStep()
    else:
        layers["last"] = LastStep()
    stack.recurrent(layers, name.width)
    return stack.network(num_outputs, None)


def _module(name: NetworkName, num_inputs: int) -> nn.Module:
    """The recurrent module of a name."""
    make: Callable[..., nn.Module] = _reset_before if name.family == "gru-before" else _TORCH_MODULES[name.family]
    return make(num_inputs, name.width, num_layers=name.num_hidden, batch_first=True)


def _reset_before(*sizes: int, **options: Any) -> nn.Module:
    """The GRU of the paper on DFA for recurrent networks."""
    from feedalign.nn import GRU

    return GRU(*sizes, **options, reset="before")
