"""Images read row by row: as many steps as there are rows, as many numbers at each as there are pixels in one."""

from dataclasses import replace

from feedalign_lab.data.dataset import Dataset, Inputs
from feedalign_lab.data.idx import load_fashion_mnist, load_mnist

# Mean and standard deviation of all pixels of the training images, on the scale 0..1.
_OF_MNIST = (0.1307, 0.3081)
_OF_FASHION_MNIST = (0.2860, 0.3530)


def load_row_mnist(inputs: Inputs = "own") -> Dataset:
    """The MNIST digits as 28 steps of 28 pixels: 60,000 + 10,000 of them, as in MNIST itself.

    Pixels have mean 0 and variance 1, so that the empty rows above and below a digit are inputs too: with zeros there,
    a tanh network under DFA stays at chance at the rate of the paper on DFA for recurrent networks, which does not say
    how it scaled them.

    Args:
        inputs: "symmetric" scales pixels to [-1, 1] instead.

    Returns:
        The data set.
    """
    return _in_rows(load_mnist(inputs), inputs, *_OF_MNIST)


def load_row_fashion_mnist(inputs: Inputs = "own") -> Dataset:
    """Fashion-MNIST as 28 steps of 28 pixels of mean 0 and variance 1: 60,000 + 10,000, as in Fashion-MNIST itself.

    Args:
        inputs: "symmetric" scales pixels to [-1, 1] instead.

    Returns:
        The data set.
    """
    return _in_rows(load_fashion_mnist(inputs), inputs, *_OF_FASHION_MNIST)


def _in_rows(images: Dataset, inputs: Inputs, mean: float, std: float) -> Dataset:
    """Images [N, 1, T, D], whose tensors are taken over, as series [N, T, D]."""
    normalization = images.normalization
    if inputs == "own":
        for x in (images.x_train, images.x_test):
            x.sub_(mean).div_(std)
        normalization = f"(pixels / 255 - {mean}) / {std}"
    return replace(
        images,
        name=f"row-{images.name}",
        x_train=images.x_train.squeeze(1),
        x_test=images.x_test.squeeze(1),
        normalization=f"{normalization}; a step is a row",
    )
