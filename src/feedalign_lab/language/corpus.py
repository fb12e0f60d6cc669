"""The texts that a language model learns from, by name or by path, in training, validation and test part."""

import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from feedalign_lab.data.location import VARIABLE, Archive, cache_root, locate, named_roots
from feedalign_lab.errors import MissingDataError, TextError, UnknownNameError
from feedalign_lab.language.sources import (
    PART_NAMES,
    Document,
    PartName,
    find_split,
    read_document,
    read_folder,
    read_parts,
)

__all__ = ["TEXT_NAMES", "Corpus", "Document", "load_corpus"]

TEXT_NAMES = ("novels", "shakespeare", "wikitext2", "wikitext2-heldout", "wikitext103")
"""The names that `load_corpus` knows; all else is a path."""

Parts = Mapping[PartName, Sequence[Document]]

_BOOKS = "books"
_BOOKS_ADDRESS = "https://github.com/mlschmitt/classic-books-markdown"
_BOOK_HEADER = re.compile(r"# Title: .*\n+## Author: .*\n+## Year: .*\n+---+\n+")
# The file at one commit, so that the checksum holds for as long as the address does.
_SHAKESPEARE = Archive(
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
    "/data/tinyshakespeare/input.txt",
    "6fb458f1232090904fb40fe944165e91",
    "tinyshakespeare",
    ("input.txt",),
)
_WIKITEXT_ADDRESS = "https://wikitext.smerity.com"
_WIKITEXT_FILES: dict[PartName, str] = {
    "train": "wiki.train.tokens",
    "validation": "wiki.valid.tokens",
    "test": "wiki.test.tokens",
}
_PARTS_AT_HAND: tuple[PartName, ...] = ("validation", "test")
"""The parts of WikiText-2 that do without its training text."""
_ARTICLE = re.compile(r"^ = (?!= ).* = ?$", re.MULTILINE)
_SPACE = re.compile(r"\s+")
_SHARE_OF_TRAINING, _SHARE_OF_HELD_OUT = 0.9, 0.05
_FEWEST_DOCUMENTS_TO_SPLIT = 10
_FARTHEST_SPACE = 200
"""How many characters behind a share a cut may lie to fall between two words."""


@dataclass(frozen=True)
class Corpus:
    """Text in three parts, each of at least one document.

    Attributes:
        name: The name or path it was asked for by.
        source: Where it was read and how it was split, in words.
        train: What the model, and the tokenizer, learn from.
        validation: What settings and epochs are chosen on.
        test: What is looked at in the end.
    """

    name: str
    source: str
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]

    def part(self, name: PartName) -> tuple[Document, ...]:
        """The documents of a part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def num_words(self, name: PartName) -> int:
        """Stretches between white space in a part; the counts published for WikiText hold the ends of lines too."""
        return sum(document.num_words for document in self.part(name))


def load_corpus(text: str) -> Corpus:
    """Read a text.

    A folder with a folder, or else a file, for each of train, valid (or validation) and test is split so, and what else
    is in it is left out: train/, valid/ and test/, or wiki.train.tokens and its like. In any other, with ten
    text files or more, nine tenths of the files are for training and a twentieth each for validation and test,
    always the same; with fewer, each file is cut: its first 90 % of characters are for training, 5 % for validation
    and the last 5 % for test, cuts lying between words. A file is cut likewise.

    Args:
        text: One of `TEXT_NAMES`; or the path of a text file, or of a folder of files ending in .txt, .md or .tokens.

    Returns:
        The documents of its three parts.

    Raises:
        UnknownNameError: It is no name and no path.
        MissingDataError: Its files are not on this machine and could not be fetched, or cannot be read.
        CorruptFileError: A file is empty, blank or not UTF-8.
        TextError: A folder holds no text file or an incomplete split, or the text is too short to be split.
    """
    if text in TEXT_NAMES:
        return _LOADERS[text]()
    path = Path(os.path.expanduser(text))
    if text and os.path.isdir(path):
        return _load_folder(text, path)
    if text and os.path.isfile(path):
        return _corpus(text, f"{path}, cut by position", _cut_by_position([read_document(path)]))
    raise UnknownNameError("text, file or folder", text, TEXT_NAMES)


def _corpus(name: str, source: str, parts: Parts) -> Corpus:
    """The parts as a corpus; every part has to have a document."""
    for part in PART_NAMES:
        if not parts[part]:
            raise TextError(f"{source}: the text is too short, nothing of it is left for the {part} part.")
    return Corpus(name, source, tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]))


def _load_folder(name: str, folder: Path) -> Corpus:
    """A folder of the user's."""
    paths = find_split(folder)
    if paths is not None:
        taken = ", ".join(path.name for path in paths.values())
        return _corpus(name, f"{folder}, split by what is in it: {taken}", read_parts(paths))
    documents = read_folder(folder)
    if len(documents) >= _FEWEST_DOCUMENTS_TO_SPLIT:
        return _corpus(name, f"{folder}, split by file", _split_by_document(documents))
    return _corpus(name, f"{folder}, each file cut by position", _cut_by_position(documents))


def _split_by_document(documents: Sequence[Document]) -> Parts:
    """Whole documents in each part, drawn once and for all, so that no part is the end of the alphabet."""
    order = list(range(len(documents)))
    random.Random(0).shuffle(order)
    num_held_out = max(1, round(len(documents) * _SHARE_OF_HELD_OUT))
    places: dict[PartName, list[int]] = {
        "train": order[2 * num_held_out :],
        "validation": order[:num_held_out],
        "test": order[num_held_out : 2 * num_held_out],
    }
    return {part: [documents[place] for place in sorted(chosen)] for part, chosen in places.items()}


def _cut_by_position(documents: Sequence[Document]) -> Parts:
    """Beginning, next piece and end of each document."""
    parts: dict[PartName, list[Document]] = {part: [] for part in PART_NAMES}
    for document in documents:
        text = document.text
        first = _place_between_words(text, _SHARE_OF_TRAINING)
        second = max(first, _place_between_words(text, _SHARE_OF_TRAINING + _SHARE_OF_HELD_OUT))
        for part, start, end in zip(PART_NAMES, (0, first, second), (first, second, len(text)), strict=True):
            if text[start:end].strip():
                name = f"{document.name} (characters {start:,} to {end:,})"
                parts[part].append(Document(name, text[start:end]))
    return parts


def _place_between_words(text: str, share: float) -> int:
    """Where the first word behind a share of a text starts; the share itself where none does nearby."""
    place = int(len(text) * share)
    space = _SPACE.search(text, max(0, place - 1), place + _FARTHEST_SPACE)
    return space.end() if space else place


def _load_novels() -> Corpus:
    """Novels in a folder for each part, without the header that names author and year."""
    roots = [*named_roots(), cache_root()]
    for root in roots:
        paths = find_split(root / _BOOKS) if os.path.isdir(root / _BOOKS) else None
        if paths is not None:
            parts = {
                part: [replace(book, text=_without_header(book.text)) for book in books]
                for part, books in read_parts(paths).items()
            }
            return _corpus("novels", f"{root / _BOOKS}, split by book", parts)
    state = "" if named_roots() else f" ({VARIABLE} is not set)"
    raise MissingDataError(
        f"No folder {' nor '.join(str(root / _BOOKS) for root in roots)}{state} with train/, valid/ and test/ in it: "
        f"put novels there, a file each, such as those of {_BOOKS_ADDRESS}, or set {VARIABLE} to a folder that holds "
        f"{_BOOKS}/."
    )


def _without_header(text: str) -> str:
    """A book without the lines on title, author and year, which the model would learn to write."""
    return text[header.end() :] if (header := _BOOK_HEADER.match(text)) else text


def _load_shakespeare() -> Corpus:
    """Tiny Shakespeare: a million characters of his plays in one file."""
    (path,) = locate(_SHAKESPEARE)
    return _corpus("shakespeare", f"{path}, cut by position", _cut_by_position([read_document(path)]))


def _load_wikitext2() -> Corpus:
    """WikiText-2 in its own split."""
    return _load_wikitext("wikitext2", "wikitext-2")


def _load_wikitext103() -> Corpus:
    """WikiText-103 in its own split."""
    return _load_wikitext("wikitext103", "wikitext-103")


def _load_wikitext2_heldout() -> Corpus:
    """WikiText-2 without its training part: the validation part's last articles validate, those before them train."""
    valid, test = (_locate_wikitext("wikitext2", "wikitext-2", part) for part in _PARTS_AT_HAND)
    known = read_document(valid)
    share = _SHARE_OF_TRAINING * len(known.text)
    articles = [match.start() for match in _ARTICLE.finditer(known.text) if 0 < match.start() <= share]
    cut = articles[-1] if articles else _place_between_words(known.text, _SHARE_OF_TRAINING)
    parts: Parts = {
        "train": [Document(f"{known.name} (articles up to character {cut:,})", known.text[:cut])],
        "validation": [Document(f"{known.name} (articles from character {cut:,})", known.text[cut:])],
        "test": [read_document(test)],
    }
    source = f"{valid}, most of it for training and its end for validation, and {test}"
    return _corpus("wikitext2-heldout", source, parts)


def _load_wikitext(name: str, title: str) -> Corpus:
    """The standard files; where the training part alone is missing, what can be done without it is said."""
    paths: dict[PartName, Path] = {}
    for part in (*_PARTS_AT_HAND, "train"):
        try:
            paths[part] = _locate_wikitext(name, title, part)
        except MissingDataError as error:
            if name != "wikitext2" or part != "train":
                raise
            raise MissingDataError(
                f"{error} Without it, wikitext2-heldout trains on most of the validation text, validates on the rest "
                "and tests on the test text."
            ) from error
    parts: Parts = {part: [read_document(paths[part])] for part in PART_NAMES}
    return _corpus(name, f"{paths['train'].parent}, the published split", parts)


def _locate_wikitext(name: str, title: str, part: PartName) -> Path:
    """The path of one part's file: in the folder of our name, or where the archive unpacks to in it or beside it."""
    address = f"{_WIKITEXT_ADDRESS}/{title}-v1.zip"
    errors = []
    for folder in (name, f"{name}/{title}", title):
        try:
            return locate(Archive(address, None, folder, (_WIKITEXT_FILES[part],)))[0]
        except MissingDataError as error:
            errors.append(error)
    raise errors[0]


_LOADERS: Mapping[str, Callable[[], Corpus]] = {
    "novels": _load_novels,
    "shakespeare": _load_shakespeare,
    "wikitext2": _load_wikitext2,
    "wikitext2-heldout": _load_wikitext2_heldout,
    "wikitext103": _load_wikitext103,
}
