"""The feedback point of a recurrent layer."""

from __future__ import annotations

from torch import nn

from feedalign.points import FeedbackPoint


class LayerSteps(FeedbackPoint):
    """Feedback point at the states of one recurrent layer, `[N, T, D]` whatever the layout of the module's input.

    While a rule is attached it is a child of the recurrent module, one for each layer: `rnn.layer0`, `rnn.layer1`.

    Args:
        module: The recurrent module.
        saturates: The states are bounded.
    """

    def __init__(self, module: nn.RNNBase, saturates: bool) -> None:
        super().__init__()
        self.num_directions = 2 if module.bidirectional else 1
        self.hidden_size, self.batch_first, self.saturates = module.hidden_size, module.batch_first, saturates

    def extra_repr(self) -> str:
        """Name nothing: the recurrent module tells."""
        return ""


def layer_name(module: str, layer: int) -> str:
    """Return the name of the feedback point of one layer of a recurrent module."""
    return f"{module}.layer{layer}" if module else f"layer{layer}"
