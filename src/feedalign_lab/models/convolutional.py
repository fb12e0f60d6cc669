"""Convolutional networks: those of Frenkel et al. (2021), and those of Bacho and Chu (2022, 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from feedalign_lab.errors import SettingError
from feedalign_lab.models.stack import Stack

_IMAGENET_SIDE = 224
_CLASSIFIER_WIDTHS = {"alexnet": (4096, 4096), "alexnet-small": (1024, 1024)}


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


def frenkel_cnn(
    stack: Stack, input_shape: Sequence[int], num_outputs: int, *, trained_kernels: bool, output: nn.Module
) -> nn.Sequential:
    """Convolution, tanh and max-pooling, then fully connected tanh layers and the output layer.

    For 1 x 28 x 28 images: 32 kernels of 5 x 5, then 1000 units. For 3 x 32 x 32 images: 64 and 256 kernels
    of 3 x 3, then 1000 and 1000 units. Layers are named conv1, tanh1, pool1 ... fc1, tanh2 and so on.
    The tanh after a convolution is what the authors' code has; the paper does not name it.

    Args:
        stack: The empty stack.
        input_shape: (1, 28, 28) or (3, 32, 32).
        num_outputs: Output units.
        trained_kernels: False freezes the kernels at their random start.
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
    for num_kernels in topology.num_kernels:
        stack.conv(num_kernels, topology.kernel_size, padding=topology.kernel_size // 2, is_trained=trained_kernels)
        stack.pool()
    stack.flatten()
    for width in topology.widths:
        stack.hidden(width)
    return stack.network(num_outputs, output)


def shallow_cnn(stack: Stack, num_outputs: int) -> nn.Sequential:
    """15C5-P2-40C5-P2-128: the shallow CNN of Bacho and Chu (2022, section IV-A), with linear outputs.

    15 and 40 kernels of 5 x 5 without padding, each with ReLU and 2 x 2 max-pooling, then 128 units. Feedback arrives
    at the ReLU, before the pooling.
    Differs from the authors' code, which has one pooling only, after the second convolution: here are both of the text.

    Args:
        stack: The empty stack, over images of at least 16 x 16.
        num_outputs: Output units.

    Returns:
        The network, from images to [N, num_outputs].
    """
    for num_kernels in (15, 40):
        stack.conv(num_kernels, kernel_size=5)
        stack.pool()
    stack.flatten()
    stack.hidden(128)
    return stack.network(num_outputs, None)


def alexnet(stack: Stack, num_outputs: int) -> nn.Sequential:
    """AlexNet in one tower (64-192-384-256-256 kernels, 4096-4096 units), images scaled to 224 x 224 first.

    Batch normalization after each convolution, no dropout of its own: Bacho and Chu (2024), appendix A. The images are
    scaled bilinearly in the network's first layer, so that the data set is kept at its own size.
    Differs from the authors' code, where feedback arrives behind the poolings: here at each ReLU.

    Args:
        stack: The empty stack, with batch normalization.
        num_outputs: Output units.

    Returns:
        The network, from images to [N, num_outputs].
    """
    stack.upscale(_IMAGENET_SIDE)
    stack.conv(64, 11, stride=4, padding=2)
    stack.pool(3)
    stack.conv(192, 5, padding=2)
    stack.pool(3)
    _add_upper_convolutions(stack)
    stack.pool(3)
    return _classify(stack, _CLASSIFIER_WIDTHS["alexnet"], num_outputs)


def alexnet_small(stack: Stack, num_outputs: int) -> nn.Sequential:
    """AlexNet for images of about 32 x 32 as they are: kernels of 3 x 3, poolings of 2 x 2, 1024-1024 units.

    Args:
        stack: The empty stack, with batch normalization, over images of at least 16 x 16.
        num_outputs: Output units.

    Returns:
        The network, from images to [N, num_outputs].
    """
    stack.conv(64, 3, stride=2, padding=1)
    stack.pool()
    stack.conv(192, 3, padding=1)
    stack.pool()
    _add_upper_convolutions(stack)
    stack.pool()
    return _classify(stack, _CLASSIFIER_WIDTHS["alexnet-small"], num_outputs)


def _add_upper_convolutions(stack: Stack) -> None:
    """Add the third to fifth convolution, which keep the size."""
    for num_kernels in (384, 256, 256):
        stack.conv(num_kernels, 3, padding=1)


def _classify(stack: Stack, widths: Sequence[int], num_outputs: int) -> nn.Sequential:
    """Add the classifier, whose layers are not normalized."""
    stack.flatten()
    for width in widths:
        stack.hidden(width, has_batch_norm=False)
    return stack.network(num_outputs, None)
