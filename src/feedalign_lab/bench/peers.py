"""Contestants from other people's packages, found by import: BioTorch 0.0.16."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

from torch import Tensor, nn

from feedalign_lab.bench.architectures import Problem
from feedalign_lab.errors import MissingPackageError, SettingError

PEERS: dict[str, str] = {"biotorch-dfa": "dfa", "biotorch-fa": "fa", "biotorch-usf": "usf"}
"""BioTorch's modes by the names of contestants."""

VERSION = "0.0.16"
_LAYERS = (nn.Linear, nn.Conv2d)
_PLAIN = (nn.ReLU, nn.MaxPool2d, nn.Flatten)


def lack_of_biotorch() -> str | None:
    """Return why BioTorch is not timed, in a sentence; None where it is there.

    Its layers need torch alone, its data sets and models torchvision too, which they are not asked for here.
    """
    try:
        importlib.import_module("biotorch.module.biomodule")
        found = metadata.version("biotorch")
    except (ImportError, metadata.PackageNotFoundError) as error:
        reason = "is not installed" if "biotorch" in str(error) else f"cannot be imported ({error})"
        return f"BioTorch {reason}, so there are no rows of it: pip install --no-deps biotorch=={VERSION} adds them."
    return None if found == VERSION else f"BioTorch {found} is installed, and rows are made of {VERSION} alone."


def converted(name: str, problem: Problem) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return a network that BioTorch has converted, and how it is called.

    Its DFA needs targets and loss in the forward, and computes the loss there and once more behind it, as all its
    users do.

    Args:
        name: One of `PEERS`.
        problem: Network and batch.

    Returns:
        The network, and a function of the inputs.

    Raises:
        MissingPackageError: BioTorch is not here.
        SettingError: The network has layers that it does not convert, which would stay on backprop.
    """
    lack = lack_of_biotorch()
    if lack is not None:
        raise MissingPackageError(lack)
    layers = problem.model if isinstance(problem.model, nn.Sequential) else None
    if layers is None or not all(isinstance(layer, (*_LAYERS, *_PLAIN)) for layer in layers):
        raise SettingError("BioTorch converts linear layers and convolutions one behind the other, and nothing else.")
    module: Any = importlib.import_module("biotorch.module.biomodule")
    num_outputs = problem.model(problem.inputs[:1]).shape[-1]
    # It tells on stdout what it has converted.
    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = module.BioModule(problem.model, mode=PEERS[name], output_dim=num_outputs)

    def call(inputs: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # Its hooks are of a kind that torch will drop.
            warnings.simplefilter("ignore", FutureWarning)
            output: Tensor = model(inputs, targets=problem.targets, loss_function=problem.loss)
        return output

    return model.to(problem.inputs.device), call
