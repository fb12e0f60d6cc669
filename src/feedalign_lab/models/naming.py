"""What the name of a network says, known before anything is built."""

import re
from dataclasses import dataclass
from typing import Literal, cast

from feedalign_lab.data.dataset import Task
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.names import NETWORK_NAMES, NETWORK_PATTERNS

Family = Literal[
    "fc", "conv", "conv-random", "mlp", "cnn", "alexnet", "alexnet-small", "rnn", "gru", "gru-before", "lstm"
]
Output = Literal["sigmoid", "tanh", "linear"]

_SIZES: dict[Family, re.Pattern[str]] = {
    "fc": re.compile(r"fc([1-9]\d*)-([1-9]\d*)()"),
    "mlp": re.compile(r"mlp([1-9]\d*)-([1-9]\d*)(-bn)?"),
}
_RECURRENT = re.compile(r"(rnn|gru|gru-before|lstm)-([1-9]\d*)(?:-x([1-9]\d*))?")


@dataclass(frozen=True)
class NetworkName:
    """A network's name, taken apart.

    Attributes:
        text: The name itself.
        family: "fc", "conv" and "conv-random" are the tanh networks of Frenkel et al. (2021); "rnn", "gru",
            "gru-before" and "lstm" are recurrent; the others are the ReLU networks of Bacho and Chu (2022, 2024) and
            their like.
        num_hidden: Hidden layers, fully connected ("conv" and "conv-random" have one more for images of 3 x 32 x 32) or
            recurrent.
        width: Their units, where the name says so, else 0.
        has_batch_norm: Whether the layers are batch-normalized before their activation.
    """

    text: str
    family: Family
    num_hidden: int
    width: int = 0
    has_batch_norm: bool = False

    @property
    def is_rectified(self) -> bool:
        """Whether hidden units are ReLU and outputs linear, rather than tanh with squashed outputs."""
        return self.family in {"mlp", "cnn", "alexnet", "alexnet-small"}

    @property
    def is_recurrent(self) -> bool:
        """Whether the hidden layers are recurrent, so that the inputs are series."""
        return self.family in {"rnn", "gru", "gru-before", "lstm"}

    @property
    def has_trained_convolutions(self) -> bool:
        """Whether there are convolutions that learn."""
        return self.family in {"conv", "cnn", "alexnet", "alexnet-small"}

    @property
    def activation(self) -> str:
        """The non-linearity of the hidden units, in words."""
        if self.is_rectified:
            return "relu"
        return "tanh" if self.family == "rnn" or not self.is_recurrent else "tanh with sigmoid gates"

    def output(self, task: Task) -> Output:
        """The non-linearity of the output units for a task."""
        if self.is_rectified or self.is_recurrent:
            return "linear"
        return "sigmoid" if task == "classification" else "tanh"


_CONVOLUTIONAL: dict[str, NetworkName] = {
    name.text: name
    for name in (
        NetworkName("conv", "conv", 1),
        NetworkName("conv-random", "conv-random", 1),
        NetworkName("cnn", "cnn", 1),
        NetworkName("cnn-bn", "cnn", 1, has_batch_norm=True),
        NetworkName("alexnet", "alexnet", 2, has_batch_norm=True),
        NetworkName("alexnet-small", "alexnet-small", 2, has_batch_norm=True),
    )
}


def parse_network_name(name: str) -> NetworkName:
    """Take a name apart.

    Args:
        name: One of `feedalign_lab.names.NETWORK_NAMES`, or one of the patterns there with other sizes.

    Returns:
        What it says.

    Raises:
        UnknownNameError: It stands for no network.
    """
    if name in _CONVOLUTIONAL:
        return _CONVOLUTIONAL[name]
    for family, pattern in _SIZES.items():
        if match := pattern.fullmatch(name):
            return NetworkName(name, family, int(match[1]), int(match[2]), has_batch_norm=bool(match[3]))
    if match := _RECURRENT.fullmatch(name):
        return NetworkName(name, cast("Family", match[1]), int(match[3] or 1), int(match[2]))
    raise UnknownNameError("network", name, [*NETWORK_NAMES, *NETWORK_PATTERNS])
