"""Text files and folders of them: what is read, and the parts that folders are split into."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from feedalign_lab.errors import CorruptFileError, MissingDataError, TextError

SUFFIXES = (".txt", ".md", ".tokens")
"""How the names of text files in a folder end; a file that is named itself may end as it likes."""
PartName = Literal["train", "validation", "test"]
"""What a part of a text is for."""
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

_USUAL: dict[PartName, set[str]] = {
    "train": {"train", "training"},
    "validation": {"valid", "validation", "val", "dev"},
    "test": {"test"},
}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        name: Its file's name, relative to the folder that was read; that of a file that was cut says where.
        text: What it says, with line feeds as the only ends of lines.
    """

    name: str
    text: str

    @property
    def num_words(self) -> int:
        """Stretches between white space."""
        return len(self.text.split())


def read_document(path: Path, name: str | None = None) -> Document:
    """Read a text file.

    Args:
        path: The file, UTF-8, with or without a byte order mark, with any of the usual ends of lines.
        name: What the document is called; None takes the file's name.

    Returns:
        The document.

    Raises:
        MissingDataError: The file cannot be read.
        CorruptFileError: The file is empty, blank or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(_not_utf8(path, raw, error)) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise CorruptFileError(f"{path} {'holds nothing but white space' if text else 'is empty'}.")
    return Document(path.name if name is None else name, text)


def _not_utf8(path: Path, raw: bytes, error: UnicodeDecodeError) -> str:
    """The sentence that says where a file stops being UTF-8."""
    line = raw.count(b"\n", 0, error.start) + 1
    guess = " (it starts as UTF-16 does)" if raw.startswith(_UTF16_MARKS) else ""
    return (
        f"{path} is not UTF-8: {error.reason} at byte {error.start:,}, 0x{raw[error.start]:02x}, in line {line:,}"
        f"{guess}: save the file in that encoding."
    )


def read_folder(folder: Path) -> tuple[Document, ...]:
    """Read the text files in a folder and in those inside it, hidden ones left out.

    Args:
        folder: The folder.

    Returns:
        The documents, in the order of their names.

    Raises:
        TextError: No text file is in it.
        MissingDataError: A file cannot be read.
        CorruptFileError: A file is empty, blank or not UTF-8.
    """
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    texts = sorted((name for name in visible if name.suffix.lower() in SUFFIXES), key=lambda name: name.as_posix())
    if not texts:
        found = f"holds no text file among the files in it ({len(visible):,})" if visible else "is an empty folder"
        raise TextError(f"{folder} {found}: files ending in {_listed(SUFFIXES)} were expected.")
    return tuple(read_document(folder / name, name.as_posix()) for name in texts)


def find_split(folder: Path) -> dict[PartName, Path] | None:
    """What a folder holds for each part: folders such as train/, valid/ and test/, or files such as train.txt.

    Args:
        folder: The folder.

    Returns:
        The folder or file of each part; None where the names in the folder tell of no parts.

    Raises:
        TextError: There is something for some of the parts only, or there are two for one.
    """
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = {
        part: [path for path in inside if path.is_dir() and path.name.lower() in _USUAL[part]] for part in _USUAL
    }
    if any(folders.values()):
        return _one_for_each(folder, "folders", folders)
    texts = [path for path in inside if path.is_file() and path.suffix.lower() in SUFFIXES]
    files = {part: [path for path in texts if _USUAL[part] & _pieces_of_name(path)] for part in _USUAL}
    # A file called test.txt among others is a text like them; beside a train.txt it is not to be trained on.
    if files["train"] and (files["validation"] or files["test"]):
        return _one_for_each(folder, "files", files)
    return None


def _pieces_of_name(path: Path) -> set[str]:
    """What stands between the stops and dashes of a file's name: wiki.train.tokens gives wiki and train."""
    return set(re.split(r"[._-]", path.stem.lower()))


def _one_for_each(folder: Path, kind: str, found: dict[PartName, list[Path]]) -> dict[PartName, Path]:
    """The path of each part, of which there has to be one."""
    wrong = [part for part, paths in found.items() if len(paths) != 1]
    if wrong:
        raise TextError(
            f"{folder} has the {kind} {_listed(path.name for paths in found.values() for path in paths)}: to be taken "
            f"as the split, one for each of {_listed(PART_NAMES)} was expected; there is not one for {_listed(wrong)}."
        )
    return {part: path for part, (path,) in found.items()}


def _listed(names: Iterable[str]) -> str:
    """Names in a row."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def read_parts(paths: dict[PartName, Path]) -> dict[PartName, tuple[Document, ...]]:
    """Read the folder or file of each part.

    Args:
        paths: The parts' folders or files.

    Returns:
        The documents of each part.

    Raises:
        TextError: A folder holds no text file.
        MissingDataError: A file cannot be read.
        CorruptFileError: A file is empty, blank or not UTF-8.
    """
    return {part: read_folder(path) if path.is_dir() else (read_document(path),) for part, path in paths.items()}
