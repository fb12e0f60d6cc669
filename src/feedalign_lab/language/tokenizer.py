"""Byte-level byte-pair tokenizers, trained here or read from a file, and what they make of text."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feedalign_lab.errors import (
    CorruptFileError,
    MissingDataError,
    MissingPackageError,
    SettingError,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""The token between two documents."""
SMALLEST_VOCABULARY = 257
"""Every byte, and the end of a text."""

_OTHER_ENDS = ("<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")
_FEWEST_OCCURRENCES = 2
_CHARACTERS_OF_BLOCK = 250_000
_BLOCKS_AT_ONCE = 16
# Before a single space between two words: there tokenizers part words anyway, so that blocks give the whole's tokens.
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)")


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, lowercase: bool = False) -> "Tokenizer":
    """Train a tokenizer on text; any text can be encoded by it and decoded to itself again, but for capitals.

    Args:
        texts: What to learn from.
        vocab_size: Tokens to learn, all bytes and the end of a text among them. Fewer are learned where no pair of
            tokens occurs twice any more.
        lowercase: Whether capitals are made small before anything else.

    Returns:
        The tokenizer.

    Raises:
        SettingError: The vocabulary could not hold all bytes.
        MissingPackageError: `tokenizers` is not installed.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise SettingError(
            f"A vocabulary of {vocab_size} tokens was asked for, at least {SMALLEST_VOCABULARY} are needed: every byte "
            "and the end of a text."
        )
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(library.models.BPE())
    if lowercase:
        tokenizer.normalizer = library.normalizers.Lowercase()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_FEWEST_OCCURRENCES,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((block for text in texts for _, block in blocks(text)), trainer)
    return _prepared(tokenizer)


def load_tokenizer(path: Path) -> "Tokenizer":
    """Read a tokenizer that `feedalign language` left, or any other of the `tokenizers` library.

    Truncation and padding that the file asks for are left out: a text is encoded as it is. A tokenizer without a token
    for the end of a text gets one.

    Args:
        path: The JSON file.

    Returns:
        The tokenizer.

    Raises:
        MissingDataError: There is no such file, or it cannot be read.
        CorruptFileError: It is not a tokenizer's.
        MissingPackageError: `tokenizers` is not installed.
    """
    library = _library()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingDataError(f"The tokenizer file {path} cannot be read: {error.strerror}.") from error
    try:
        tokenizer = library.Tokenizer.from_str(content.decode("utf-8"))
    except BaseException as error:
        # The library raises nothing more special than Exception, and panics on some files, which is not even this.
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise CorruptFileError(
            f"{path} is not a tokenizer file: a JSON file as the tokenizers library saves it (tokenizer.json) was "
            f"expected ({error})."
        ) from error
    return _prepared(tokenizer)


def encode(tokenizer: "Tokenizer", text: str) -> Tensor:
    """Encode text as it stands: the name of a special token in it is read as any other letters.

    Args:
        tokenizer: A tokenizer made here. Text that it may have no tokens for is to be given to
            `feedalign_lab.language.unknown.check_known` before.
        text: The text.

    Returns:
        Token numbers, int64 [T].
    """
    pieces = [torch.empty(0, dtype=torch.int64)]
    remaining = (block for _, block in blocks(text))
    while group := list(islice(remaining, _BLOCKS_AT_ONCE)):
        encodings = tokenizer.encode_batch_fast(group, add_special_tokens=False)
        pieces += [torch.tensor(encoding.ids, dtype=torch.int64) for encoding in encodings]
    return torch.cat(pieces)


def decode(tokenizer: "Tokenizer", numbers: Tensor | Sequence[int]) -> str:
    """The text that tokens stand for, with the ends of texts in it as `end_of_text`.

    Args:
        tokenizer: The tokenizer.
        numbers: Token numbers, [T].

    Returns:
        The text. Bytes that are no UTF-8, as an untrained model writes them, come as U+FFFD.
    """
    listed: list[int] = numbers.tolist() if isinstance(numbers, Tensor) else list(numbers)
    return tokenizer.decode(listed, skip_special_tokens=False)


def end_of_text(tokenizer: "Tokenizer") -> int:
    """Number of the token between two documents; every tokenizer made here has one."""
    numbers = [tokenizer.token_to_id(name) for name in (END_OF_TEXT, *_OTHER_ENDS)]
    return next(number for number in numbers if number is not None)


def unknown_token(tokenizer: "Tokenizer") -> int | None:
    """Number of the token that stands for all that a tokenizer has no token for; None where there is none."""
    model = model_settings(tokenizer)
    if model["type"] == "Unigram":
        number: int | None = model["unk_id"]
        return number
    return None if model["unk_token"] is None else tokenizer.token_to_id(model["unk_token"])


def model_settings(tokenizer: "Tokenizer") -> dict[str, Any]:
    """What a tokenizer's file says of its model."""
    settings: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return settings


def vocabulary_size(tokenizer: "Tokenizer") -> int:
    """One more than the highest token number; a file may leave numbers out."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def blocks(text: str, num_characters: int = _CHARACTERS_OF_BLOCK) -> Iterator[tuple[int, str]]:
    """Cut a long text between words, so that its encoding needs little memory and all cores.

    Args:
        text: The text.
        num_characters: How long a block is at least, the last one aside; at least 1.

    Yields:
        The place in the text where a block starts, and the block.
    """
    start = 0
    while len(text) - start > num_characters and (cut := _BETWEEN_WORDS.search(text, start + num_characters)):
        yield start, text[start : cut.start()]
        start = cut.start()
    yield start, text[start:]


def _prepared(tokenizer: "Tokenizer") -> "Tokenizer":
    """The tokenizer, encoding all of a text, and nothing but it, with a token for its end."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if all(tokenizer.token_to_id(name) is None for name in (END_OF_TEXT, *_OTHER_ENDS)):
        tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.encode_special_tokens = True
    return tokenizer


def _library() -> ModuleType:
    """The `tokenizers` library, which the extra brings."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingPackageError(
            "Text is cut into tokens by the package tokenizers, which is not installed: "
            "pip install 'feedalign[language]'."
        ) from error
    return tokenizers
