"""Text that a tokenizer would drop or stop at, because it has no tokens for it and none for the unknown."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from feedalign_lab.errors import UnknownTokenError
from feedalign_lab.language.sources import Document
from feedalign_lab.language.tokenizer import blocks, model_settings, unknown_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_SHOWN = 5


def check_known(tokenizer: "Tokenizer", document: Document) -> None:
    """Make sure that a tokenizer has tokens for all of a document, or one for the unknown.

    Args:
        tokenizer: The tokenizer.
        document: The document.

    Raises:
        UnknownTokenError: It has not; the sentence tells for which characters or words, and where the first stands.
    """
    reads_characters = _reads_characters(tokenizer)
    if unknown_token(tokenizer) is not None or (reads_characters and _has_every_byte(tokenizer)):
        return
    lost = dict[str, int]()
    for start, text in _lost_stretches(tokenizer, document.text):
        for place, characters in _narrowed(tokenizer, text) if reads_characters else [(0, text)]:
            bare = characters.strip() or characters
            lost.setdefault(bare, start + place + characters.index(bare))
    if not lost:
        return
    first = min(lost.values())
    line = document.text.count("\n", 0, first) + 1
    column = first - document.text.rfind("\n", 0, first)
    shown = ", ".join(_named(characters) for characters in list(lost)[:_MOST_SHOWN])
    more = f" and others, {len(lost):,} in all" if len(lost) > _MOST_SHOWN else ""
    raise UnknownTokenError(
        f"The tokenizer has no token for {shown}{more}, and none for the unknown: the first stands in {document.name}, "
        f"line {line:,}, character {column:,}. Take a tokenizer of bytes, or one with an unknown token."
    )


def _reads_characters(tokenizer: "Tokenizer") -> bool:
    """Whether a character is unknown wherever it stands; else words are, or characters at some places in them."""
    model = model_settings(tokenizer)
    affixes = (model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"))
    return model["type"] in {"BPE", "Unigram"} and not any(affixes)


def _has_every_byte(tokenizer: "Tokenizer") -> bool:
    """Whether it is a byte-level one with a token for each byte, as those trained here: then nothing is unknown."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = ByteLevel.alphabet()
    return isinstance(tokenizer.pre_tokenizer, ByteLevel) and all(map(tokenizer.get_vocab().__contains__, letters))


def _lost_stretches(tokenizer: "Tokenizer", text: str) -> Iterator[tuple[int, str]]:
    """Pieces of a text that its tokens do not cover.

    Yields:
        Where each starts, and what stands there in the text.
    """
    known: dict[str, bool] = {}
    for start, block in blocks(text):
        for piece, (left, right) in _pieces(tokenizer, block):
            if piece not in known:
                known[piece] = _covers(tokenizer, piece)
            if not known[piece]:
                yield start + left, block[left:right]


def _pieces(tokenizer: "Tokenizer", text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """What the tokenizer's model is given, piece by piece.

    Yields:
        The piece, normalized, and the places in the text where its characters start and end.
    """
    from tokenizers import PreTokenizedString

    string = PreTokenizedString(text)
    if tokenizer.normalizer is not None:
        string.normalize(tokenizer.normalizer.normalize)
    if tokenizer.pre_tokenizer is not None:
        tokenizer.pre_tokenizer.pre_tokenize(string)
    for piece, places, _ in string.get_splits(offset_referential="original", offset_type="char"):
        yield piece, places


def _covers(tokenizer: "Tokenizer", piece: str) -> bool:
    """Whether the tokens of a piece have all its bytes; some models leave out what they do not know, some raise."""
    try:
        tokens = tokenizer.model.tokenize(piece)
    except Exception:  # The library raises nothing more special than this.
        return False
    num_bytes = sum(token.offsets[1] - token.offsets[0] for token in tokens)
    return bool(num_bytes == len(piece.encode()))


def _narrowed(tokenizer: "Tokenizer", text: str) -> Iterator[tuple[int, str]]:
    """The characters that make a stretch unknown; all of it where none does by itself.

    Yields:
        Where in the stretch they start, and the characters.
    """
    unknown = [
        (place, character)
        for place, character in enumerate(text)
        if not all(_covers(tokenizer, piece) for piece, _ in _pieces(tokenizer, character))
    ]
    yield from unknown or [(0, text)]


def _named(characters: str) -> str:
    """Characters as they look and, for one alone, its number, since some look like others or like nothing."""
    return f"{characters!r} (U+{ord(characters):04X})" if len(characters) == 1 else repr(characters[:40])
