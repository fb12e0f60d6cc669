"""A corpus as streams of tokens, and streams as chunks to train on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from feedalign_lab.errors import SettingError, TextError
from feedalign_lab.language.corpus import Corpus
from feedalign_lab.language.sources import PART_NAMES, Document, PartName
from feedalign_lab.language.tokenizer import (
    decode,
    encode,
    end_of_text,
    load_tokenizer,
    train_tokenizer,
    unknown_token,
    vocabulary_size,
)
from feedalign_lab.language.unknown import check_known

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "VOCAB_SIZE",
    "Chunks",
    "Tokens",
    "chunks",
    "decode",
    "encode",
    "encode_prompt",
    "end_of_text",
    "load_tokenizer",
    "tokenize",
    "train_tokenizer",
]

VOCAB_SIZE = 8192
"""How many tokens are learned unless another number is asked for."""


class Chunks(NamedTuple):
    """Stretches of a stream, none overlapping another, with what comes next at each place.

    Attributes:
        inputs: Token numbers, int64 [N, T].
        targets: The next token of each, int64 [N, T].
        num_dropped: Tokens at the end of the stream that are no input and no target, since they fill no chunk.
    """

    inputs: Tensor
    targets: Tensor
    num_dropped: int


@dataclass(frozen=True, eq=False)
class Tokens:
    """A corpus as tokens.

    Attributes:
        train: Token numbers of the training part, int64 [T], with the end of a text between two documents.
        validation: Those of the validation part.
        test: Those of the test part.
        tokenizer: What made them.
        vocab_size: One more than the highest token number that there can be.
        num_words: Words of each part, stretches between white space.
        notes: What the user should be told, a sentence each: a vocabulary smaller than was asked for, unknown tokens.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    tokenizer: "Tokenizer"
    vocab_size: int
    num_words: Mapping[PartName, int]
    notes: tuple[str, ...] = ()

    def part(self, name: PartName) -> Tensor:
        """The stream of a part, int64 [T]."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def tokenize(
    corpus: Corpus, tokenizer: "Tokenizer | None" = None, *, vocab_size: int | None = None, lowercase: bool = False
) -> Tokens:
    """Turn a corpus into tokens.

    Args:
        corpus: The corpus.
        tokenizer: A tokenizer from `load_tokenizer`; None trains one, on the training part alone.
        vocab_size: Tokens to learn in training, at least 257; None for `VOCAB_SIZE`.
        lowercase: Whether the trained tokenizer makes capitals small.

    Returns:
        The three streams.

    Raises:
        SettingError: The vocabulary is too small, or settings for training a tokenizer came with a trained one.
        TextError: A part has no token.
        UnknownTokenError: The tokenizer has no tokens for some of the text.
        MissingPackageError: `tokenizers` is not installed.
    """
    notes: list[str] = []
    if tokenizer is None:
        asked = VOCAB_SIZE if vocab_size is None else vocab_size
        tokenizer = train_tokenizer((document.text for document in corpus.train), asked, lowercase=lowercase)
        if (learned := vocabulary_size(tokenizer)) < asked:
            notes.append(
                f"The vocabulary has {learned:,} tokens, not the {asked:,} asked for: no further pair of tokens occurs "
                "twice in the training text."
            )
    elif vocab_size is not None or lowercase:
        raise SettingError(
            "The size of the vocabulary and lower case are settings for training a tokenizer, but one that is trained "
            "was given: leave them out, or the tokenizer."
        )
    else:
        for document in (*corpus.train, *corpus.validation, *corpus.test):
            check_known(tokenizer, document)
    streams = {part: _stream(tokenizer, corpus, part) for part in PART_NAMES}
    notes += _notes_on_unknown_tokens(tokenizer, streams)
    num_words = {part: corpus.num_words(part) for part in PART_NAMES}
    return Tokens(
        **streams, tokenizer=tokenizer, vocab_size=vocabulary_size(tokenizer), num_words=num_words, notes=(*notes,)
    )


def _stream(tokenizer: "Tokenizer", corpus: Corpus, part: PartName) -> Tensor:
    """The documents of a part as one stream, the end of a text between two of them."""
    end = torch.tensor([end_of_text(tokenizer)])
    pieces: list[Tensor] = []
    for document in corpus.part(part):
        tokens = encode(tokenizer, document.text)
        if tokens.numel():
            pieces += [end, tokens] if pieces else [tokens]
    if not pieces:
        raise TextError(f"{corpus.name}: the tokenizer makes no token of the {part} part, {corpus.part(part)[0].name}.")
    return torch.cat(pieces)


def _notes_on_unknown_tokens(tokenizer: "Tokenizer", streams: Mapping[PartName, Tensor]) -> list[str]:
    """The share of unknown tokens in each part, where there are any."""
    unknown = unknown_token(tokenizer)
    if unknown is None:
        return []
    shares = {part: (stream == unknown).double().mean().item() for part, stream in streams.items()}
    if not any(shares.values()):
        return []
    told = ", ".join(f"{share:.2%} of the {part} part" for part, share in shares.items())
    return [f"Tokens that stand for the unknown ({tokenizer.id_to_token(unknown)}): {told}."]


def encode_prompt(tokenizer: "Tokenizer", text: str) -> Tensor:
    """Encode a text of the user's for a model to go on with.

    Args:
        tokenizer: The tokenizer.
        text: The text.

    Returns:
        Token numbers, int64 [T], at least one.

    Raises:
        TextError: There is no token in it.
        UnknownTokenError: The tokenizer has no tokens for some of it.
    """
    check_known(tokenizer, Document("the prompt", text))
    tokens = encode(tokenizer, text)
    if not tokens.numel():
        raise TextError(f"The prompt {text!r} has no token: at least one is needed.")
    return tokens


def chunks(stream: Tensor, length: int, part: str = "text") -> Chunks:
    """Cut a stream into chunks that do not overlap; every token but the first is a target once.

    Args:
        stream: Token numbers, int64 [T].
        length: Inputs of a chunk.
        part: What to call the stream in an error.

    Returns:
        Inputs and targets, views of the stream's memory, and the number of tokens left over at its end.

    Raises:
        SettingError: The length is not at least 1.
        TextError: The stream is too short for one chunk.
    """
    if length < 1:
        raise SettingError(f"A chunk of {length} tokens was asked for: at least 1 is needed.")
    num_chunks = (stream.numel() - 1) // length
    if num_chunks < 1:
        raise TextError(
            f"The {part} part has {stream.numel():,} tokens, too few for one chunk of {length:,} and the token behind "
            "it: take shorter chunks, or more text."
        )
    used = num_chunks * length
    inputs, targets = stream[:used].view(num_chunks, length), stream[1 : used + 1].view(num_chunks, length)
    return Chunks(inputs, targets, stream.numel() - used - 1)
