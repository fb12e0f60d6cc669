"""A stack of layers under construction: names, sizes and numbers are kept in one place."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import nn

from feedalign_lab.errors import SettingError


class Stack:
    """Layers in the order of the forward, named by kind and number: conv1, bn1, relu1, pool1 ... fc1, relu2, fc2."""

    def __init__(
        self,
        input_shape: Sequence[int],
        activation: type[nn.Module],
        *,
        dropout: float = 0.0,
        has_batch_norm: bool = False,
    ) -> None:
        """Start with no layer.

        Args:
            input_shape: Shape of one input, without the batch.
            activation: The non-linearity of the hidden layers.
            dropout: Probability of dropping at the input of every fully connected layer; 0 leaves dropout layers out.
            has_batch_norm: Whether hidden layers are batch-normalized before their activation.
        """
        self._layers: OrderedDict[str, nn.Module] = OrderedDict()
        self._shape = tuple(input_shape)
        self._activation, self._dropout, self._has_batch_norm = activation, dropout, has_batch_norm

    def upscale(self, side: int) -> None:
        """Scale images to a side of so many pixels, bilinearly."""
        self._layers["upscale"] = nn.Upsample(size=(side, side), mode="bilinear", align_corners=False)
        self._shape = (self._shape[0], side, side)

    def conv(
        self, num_kernels: int, kernel_size: int, *, stride: int = 1, padding: int = 0, is_trained: bool = True
    ) -> None:
        """Add a convolution with its activation.

        Args:
            num_kernels: Channels of its output.
            kernel_size: Side of the kernels.
            stride: Pixels from one position of the kernels to the next.
            padding: Zeros around the image.
            is_trained: False freezes the kernels at their random start.
        """
        kernels = nn.Conv2d(self._shape[0], num_kernels, kernel_size, stride=stride, padding=padding)
        self._layers[f"conv{self._count(nn.Conv2d) + 1}"] = kernels.requires_grad_(is_trained)
        self._shape = (num_kernels, *(self._reduced(kernel_size, stride, padding)))
        self._normalize_and_activate(nn.BatchNorm2d(num_kernels) if self._has_batch_norm else None)

    def pool(self, kernel_size: int = 2, stride: int = 2) -> None:
        """Add a max-pooling."""
        self._layers[f"pool{self._count(nn.MaxPool2d) + 1}"] = nn.MaxPool2d(kernel_size, stride)
        self._shape = (self._shape[0], *self._reduced(kernel_size, stride, 0))

    def flatten(self) -> None:
        """Make one row of features of each example, if it is none yet."""
        if len(self._shape) > 1:
            self._layers["flatten"] = nn.Flatten()
            self._shape = (math.prod(self._shape),)

    def hidden(self, width: int, *, has_batch_norm: bool | None = None) -> None:
        """Add a fully connected layer with its activation.

        Args:
            width: Its units.
            has_batch_norm: Whether this layer is batch-normalized; None: as all are.
        """
        self.linear(width)
        is_normalized = self._has_batch_norm if has_batch_norm is None else has_batch_norm
        self._normalize_and_activate(nn.BatchNorm1d(width) if is_normalized else None)

    def linear(self, width: int) -> None:
        """Add a fully connected layer without activation."""
        number = self._count(nn.Linear) + 1
        if self._dropout > 0:
            self._layers[f"dropout{number}"] = nn.Dropout(self._dropout)
        self._layers[f"fc{number}"] = nn.Linear(self._shape[0], width)
        self._shape = (width,)

    def recurrent(self, layers: Mapping[str, nn.Module], width: int) -> None:
        """Add recurrent layers under names of their own.

        Args:
            layers: By name, in the order of the forward.
            width: Units of what the last of them gives, whether at one step or at all.
        """
        self._layers.update(layers)
        self._shape = (width,)

    def network(self, num_outputs: int, output: nn.Module | None) -> nn.Sequential:
        """Add the output layer and close the stack.

        Args:
            num_outputs: Output units.
            output: Their non-linearity, e.g. `nn.Sigmoid()`; None for linear ones.

        Returns:
            The network, from [N, *input_shape] to [N, num_outputs].
        """
        self.linear(num_outputs)
        if output is not None:
            self._layers["output"] = output
        return nn.Sequential(self._layers)

    def _normalize_and_activate(self, normalization: nn.Module | None) -> None:
        if normalization is not None:
            self._layers[f"bn{self._count(nn.BatchNorm1d, nn.BatchNorm2d) + 1}"] = normalization
        number = self._count(self._activation) + 1
        self._layers[f"{self._activation.__name__.lower()}{number}"] = self._activation()

    def _count(self, *kinds: type[nn.Module]) -> int:
        return sum(isinstance(layer, kinds) for layer in self._layers.values())

    def _reduced(self, kernel_size: int, stride: int, padding: int) -> tuple[int, ...]:
        """Height and width after a kernel has gone over the image."""
        sides = tuple((side + 2 * padding - kernel_size) // stride + 1 for side in self._shape[1:])
        if min(sides) < 1:
            raise SettingError(
                "The images are too small for this network: after some of its layers nothing is left of them. Choose a "
                "network with fewer poolings, or a fully connected one such as mlp2-800."
            )
        return sides
