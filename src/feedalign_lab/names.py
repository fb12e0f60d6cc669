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
NETWORK_NAMES = ("fc1-500", "fc1-1000", "fc2-500", "fc2-1000", "conv", "conv-random")
REGRESSION_NAMES = ("synthetic-regression",)
