"""The names a user can type, in a module that imports nothing heavy."""

DATA_NAMES = (
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "synthetic-regression",
    "synthetic-classification",
)
REGRESSION_NAMES = ("synthetic-regression",)
PIXEL_NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")
"""Data sets whose inputs are pixels, so that there is a darkest and a brightest value to scale to."""

NETWORK_NAMES = (
    "fc1-500", "fc1-1000", "fc2-500", "fc2-1000", "conv", "conv-random",
    "mlp1-800", "mlp2-800", "mlp3-1000", "mlp2-800-bn",
    "cnn", "cnn-bn", "alexnet", "alexnet-small",
)  # fmt: skip
NETWORK_PATTERNS = ("fc<layers>-<width>", "mlp<layers>-<width>", "mlp<layers>-<width>-bn")
