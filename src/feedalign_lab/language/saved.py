"""Trained Transformers as files."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from feedalign_lab.errors import CorruptFileError, MissingDataError
from feedalign_lab.language.transformer import Transformer, TransformerSize

_LARGEST_TABLE = 2**28
"""Numbers in a table of positions, which is no part of the weights."""


def weights_name(rule: str) -> str:
    """Return the name of the file that holds what a rule trained.

    Args:
        rule: Name of the rule and its points.
    """
    return f"weights-{rule}.pt"


def save_transformer(model: Transformer, stream: BinaryIO) -> None:
    """Write a model without a rule.

    Args:
        model: The plain model; its rule was removed.
        stream: Where to write.
    """
    torch.save({"size": asdict(model.size), "vocab_size": model.vocab_size, "weights": model.state_dict()}, stream)


def load_transformer(path: Path) -> Transformer:
    """Read a model that `feedalign language` left.

    Args:
        path: The file, such as weights-dfa-macro.pt in a results folder.

    Returns:
        The model, without a rule, in evaluation mode, on the CPU.

    Raises:
        MissingDataError: There is no such file.
        CorruptFileError: It is something else.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        size = TransformerSize(**saved["size"])
        _refuse_larger(size, saved["vocab_size"], saved["weights"])
        model = Transformer(size, saved["vocab_size"])
        model.load_state_dict(saved["weights"])
    except FileNotFoundError as error:
        raise MissingDataError(f"There is no file {path}.") from error
    except Exception as error:
        raise CorruptFileError(f"{path} is no model that `feedalign language` left ({error}).") from error
    return model.eval()


def _refuse_larger(size: TransformerSize, vocab_size: int, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError before a model is made that is far larger than the weights that are there for it."""
    numbers = sum(entry.numel() for entry in weights.values())
    if size.num_layers * size.width * (size.width + size.inner_width) > numbers or vocab_size * size.width > numbers:
        raise ValueError(f"{size} with {vocab_size} tokens is larger than its {numbers} weights")
    if size.context * max(size.width, size.context) > _LARGEST_TABLE:
        raise ValueError(f"a context of {size.context} tokens")
