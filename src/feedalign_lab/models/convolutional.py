"""The convolutional networks of Frenkel, Lefebvre and Bol (2021), for MNIST- and CIFAR-sized images."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from feedalign_lab.errors import SettingError
from feedalign_lab.models.fully_connected import add_fully_connected


@dataclass(frozen=True)
class _Topology:
    """Kernels and hidden layers; every convolution keeps the size, every 2 x 2 pooling halves it."""

    num_kernels: tuple[int, ...]
    kernel_size: int
    widths: tuple[int, ...]


_TOPOLOGIES: dict[tuple[int, ...], _Topology] = {
    (1, 28, 28): _Topology(num_kernels=(32,), kernel_size=5, widths=(1000,)),
    (3, 32, 32): _Topology(num_kernels=(64, 256), kernel_size=3, widths=(1000, 1000)),
}


def convolutional(
    input_shape: Sequence[int],
    num_outputs: int,
    *,
    trained_kernels: bool,
    dropout: float,
    output: nn.Module,
) -> nn.Sequential:
    """Convolution, tanh and max-pooling, then fully connected tanh layers and the output layer.

    For 1 x 28 x 28 images: 32 kernels of 5 x 5, then 1000 units. For 3 x 32 x 32 images: 64 and 256 kernels
    of 3 x 3, then 1000 and 1000 units. Layers are named conv1, tanh1, pool1 ... fc1, tanh2 and so on.
    The tanh after a convolution is what the authors' code has; the paper does not name it.

    Args:
        input_shape: (1, 28, 28) or (3, 32, 32).
        num_outputs: Output units.
        trained_kernels: False freezes the kernels at their random start.
        dropout: Probability of dropping at the input of every fully connected layer.
        output: The non-linearity of the output units, e.g. `nn.Sigmoid()`.

    Returns:
        The network, from [N, *input_shape] to [N, num_outputs].

    Raises:
        SettingError: The inputs are not images of one of the two sizes.
    """
    topology = _TOPOLOGIES.get(tuple(input_shape))
    if topology is None:
        raise SettingError(
            f"The conv networks take images of {' or '.join(map(str, _TOPOLOGIES))}, not inputs of "
            f"{tuple(input_shape)}: choose a network such as fc1-500."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, side = input_shape[0], input_shape[1]
    for number, num_kernels in enumerate(topology.num_kernels, start=1):
        kernels = nn.Conv2d(channels, num_kernels, topology.kernel_size, padding=topology.kernel_size // 2)
        layers[f"conv{number}"] = kernels.requires_grad_(trained_kernels)
        layers[f"tanh{number}"] = nn.Tanh()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        channels, side = num_kernels, side // 2
    layers["flatten"] = nn.Flatten()
    first_tanh = len(topology.num_kernels) + 1
    num_features = channels * side * side
    add_fully_connected(layers, num_features, topology.widths, num_outputs, dropout=dropout, first_tanh=first_tanh)
    layers["output"] = output
    return nn.Sequential(layers)
