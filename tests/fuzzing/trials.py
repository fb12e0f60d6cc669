"""One damaged input and what its reader makes of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple
from unittest import mock

from feedalign.errors import FeedalignError
from fuzzing.mutations import Damage

LONGEST_SENTENCE = 2000
_SHARE_MISSING = 0.01
_SHARE_SEVERAL = 0.15
# What a file must never make its reader do. Readers of folders may write, but in the folder for scratch alone.
_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "os.putenv", "subprocess.Popen",
    "socket.connect", "socket.bind", "ctypes.dlopen", "pty.spawn", "webbrowser.open",
)  # fmt: skip

Kind = Literal["read", "refused", "fault"]


class Outcome(NamedTuple):
    """What became of an input: read, refused with a typed error, or anything else."""

    kind: Kind
    detail: str = ""


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        name: How counts call it.
        write: Writes whole files into a folder.
        read: Reads what is in the folder; raises typed errors alone.
        damage: What to do to files, by a glob of their paths in the folder; those that none matches stay whole.
        weight: How many inputs it has, relative to others.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    damage: Mapping[str, Damage]
    weight: float = 1.0

    @cached_property
    def whole(self) -> dict[str, bytes]:
        """Its whole files, by their paths; read once here, so that nothing is imported while it is watched."""
        with tempfile.TemporaryDirectory() as name:
            self.write(folder := Path(name))
            self.read(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def files(self, number: int) -> dict[str, bytes]:
        """The files of one input; number 0 is undamaged.

        Args:
            number: Which; the same number always gives the same files.
        """
        files = dict(self.whole)
        if number == 0:
            return files
        draw = Random(f"{self.name} {number}")
        known = [name for name in files if self._damage_for(name) is not None]
        for name in draw.sample(known, min(len(known), draw.choice((2, 3)) if draw.random() < _SHARE_SEVERAL else 1)):
            damage = self._damage_for(name)
            assert damage is not None
            files[name] = damage(files[name], draw)
            if draw.random() < _SHARE_MISSING:
                del files[name]
        return files

    def _damage_for(self, name: str) -> Damage | None:
        return next((damage for glob, damage in self.damage.items() if fnmatchcase(name, glob)), None)


def put(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of an input into a folder, in the place of all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def outcome_of(reader: Reader, number: int, scratch: Path) -> Outcome:
    """Read one input.

    Args:
        reader: Its reader.
        number: Which input.
        scratch: A folder to write into.
    """
    put(reader.files(number), folder := scratch / "input")
    try:
        with warnings.catch_warnings(), _watched(scratch) as forbidden:
            warnings.simplefilter("error")
            reader.read(folder)
    except FeedalignError as error:
        found = _judged(error)
    except (Exception, SystemExit) as error:
        found = Outcome("fault", f"{type(error).__name__}: {error}"[:300])
    except BaseException as error:
        # Panics of libraries in Rust are no Exception.
        if isinstance(error, KeyboardInterrupt):
            raise
        found = Outcome("fault", f"{type(error).__name__}: {error}"[:300])
    else:
        found = Outcome("read")
    return Outcome("fault", f"it did {forbidden[0]}") if forbidden else found


def _judged(error: FeedalignError) -> Outcome:
    """A typed error that is as it should be: a sentence, not a page, and not the answer to a lack of memory."""
    sentence, name = str(error), type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "not enough memory" in str(cause) or "t allocate memory" in str(cause):
            return Outcome("fault", f"{name} for lack of memory: more was asked for than the file can hold")
        cause = cause.__cause__ or cause.__context__
    if not sentence.strip() or len(sentence) > LONGEST_SENTENCE:
        return Outcome("fault", f"{name} of {len(sentence)} characters: {sentence[:200]}")
    return Outcome("refused", name)


_watching: list[tuple[str, list[str]]] = []
_is_set = False


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    scratch, forbidden = _watching[-1]
    if event in _FORBIDDEN or (event == "compile" and arguments[1] == "<string>"):
        forbidden.append(f"{event} {arguments!r}"[:200])
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        path = str(arguments[0])
        if not path.startswith((scratch, "/dev/")):
            forbidden.append(f"open {path!r} for writing")


@contextmanager
def _watched(scratch: Path) -> Any:
    """Notice what must not be done; Python's own hook, which cannot be taken away but be told to look aside."""
    global _is_set
    if not _is_set:
        sys.addaudithook(_note)
        _is_set = True
    forbidden: list[str] = []
    _watching.append((str(scratch), forbidden))
    try:
        with mock.patch.object(tempfile, "tempdir", str(scratch)):
            yield forbidden
    finally:
        _watching.pop()
