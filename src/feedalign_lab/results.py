"""The folder a run writes to: checked before training, never half written, never overwritten unasked."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from feedalign_lab.errors import OutputFolderError

RESULTS_NAME = "results.json"
WEIGHTS_NAME = "weights.pt"
CURVES_NAME = "learning_curves.png"
ANGLES_NAME = "angles.png"
TUNING_NAME = "tuning.json"
SAMPLES_NAME = "samples.txt"
TOKENIZER_NAME = "tokenizer.json"

_ELSEWHERE = "choose another with --out"
# Of trainings that were cut: the newest, and the one before.
_CHECKPOINTS = ("*.feedalign-checkpoint", "*.feedalign-checkpoint.*")
_NAMES = (RESULTS_NAME, WEIGHTS_NAME, CURVES_NAME, ANGLES_NAME, TUNING_NAME, SAMPLES_NAME, TOKENIZER_NAME)


@dataclasses.dataclass(frozen=True)
class ResultsFolder:
    """A folder that is known to be writable.

    Attributes:
        path: The folder.
        is_new: Whether it was not there before.
    """

    path: Path
    is_new: bool = False

    @classmethod
    def open(cls, path: Path, *, overwrite: bool, goes_on: bool = False, advice: str = _ELSEWHERE) -> "ResultsFolder":
        """Make the folder and check that results can be written there.

        Args:
            path: The folder; made with its parents if it is not there.
            overwrite: Whether results that are there already may be replaced; checkpoints are removed at once.
            goes_on: Whether what is there belongs to the run that goes on in it, and may be replaced by its results.
            advice: What to do where it cannot be written.

        Returns:
            The folder.

        Raises:
            OutputFolderError: It cannot be written, or it holds results already.
        """
        is_new = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise OutputFolderError(
                f"The results folder {path} cannot be written ({_reason(error)}): {advice}."
            ) from error
        folder = cls(path, is_new)
        if overwrite:
            folder.remove(*_CHECKPOINTS)
        elif not goes_on:
            folder._refuse_taken()
        return folder

    def taken(self) -> list[str]:
        """Names of the files that a run has left."""
        return [name for name in _NAMES if (self.path / name).exists()]

    def saved(self) -> list[str]:
        """Names of the checkpoints of a run that was cut, or is under way."""
        return sorted(path.name for pattern in _CHECKPOINTS for path in self.path.glob(pattern))

    def _refuse_taken(self) -> None:
        """Refuse to write over what another run left, or needs to go on."""
        taken, saved = self.taken(), self.saved()
        if taken or saved:
            way_on = f"; or go on with that run: the same command with --resume {self.path}" if saved else ""
            raise OutputFolderError(
                f"{self.path / [*taken, *saved][0]} exists already and was left as it is: "
                f"choose another folder with --out, or replace it with --overwrite{way_on}."
            )

    @contextmanager
    def only_kept_with_content(self) -> Iterator[None]:
        """Take the folder away again if what is done ends in an error before anything was written."""
        try:
            yield
        except BaseException:
            if self.is_new:
                with suppress(OSError):  # which says that there is something in it
                    self.path.rmdir()
            raise

    def remove(self, *patterns: str) -> None:
        """Remove files that an earlier run left, so that they do not lie beside results of another.

        Args:
            patterns: Names, in which `*` stands for anything.
        """
        for path in [path for pattern in patterns for path in self.path.glob(pattern)]:
            path.unlink(missing_ok=True)

    def remove_result_files(self) -> None:
        """Remove the pictures that an earlier run says it left, so that they do not lie beside results of another."""
        try:
            named = json.loads((self.path / RESULTS_NAME).read_text(encoding="utf-8"))["result_files"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return
        for name in named if isinstance(named, list) else ():
            if isinstance(name, str) and name == Path(name).name and name not in {"", ".", ".."}:
                # What a damaged file names may be no name of a file at all.
                with suppress(OSError, ValueError):
                    (self.path / name).unlink(missing_ok=True)

    def write_result_file(self, name: str, save: Callable[[Path], object]) -> Path:
        """Write a file that a task names, in one piece.

        Args:
            name: Name of the file.
            save: Writes the content to the path it is given, whose name has the same ending.

        Returns:
            Path of the file.

        Raises:
            OutputFolderError: The name is taken by a file that every run writes, or leads out of the folder; or the
                folder cannot be written any more.
        """
        if name in {*_NAMES, "", ".", ".."} or name != Path(name).name:
            raise OutputFolderError(
                f"A file that a trial leaves behind cannot be called {name!r}: it must be a plain name, other than "
                f"{', '.join(_NAMES)}."
            )
        return self.write_file(name, save)

    def write_results(self, results: dict[str, Any]) -> Path:
        """Write `results.json` in one piece.

        Args:
            results: Containers, numbers, text and dataclasses; nan and infinity become null.

        Returns:
            Path of the file.
        """
        return self.write_bytes(RESULTS_NAME, to_json(results).encode())

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write one file in one piece.

        Args:
            name: Name of the file.
            content: All of it.

        Returns:
            Path of the file.
        """
        return self.write(name, lambda stream: stream.write(content))

    def write(self, name: str, save: Callable[[BinaryIO], object]) -> Path:
        """Write one file in one piece: readers see the old file or the new one, nothing in between.

        Args:
            name: Name of the file.
            save: Writes the content to the stream it is given.

        Returns:
            Path of the file.

        Raises:
            OutputFolderError: The folder cannot be written any more; an older file of that name is intact.
        """

        def save_to(path: Path) -> None:
            with path.open("wb") as stream:
                save(stream)

        return self.write_file(name, save_to)

    def write_file(self, name: str, save: Callable[[Path], object]) -> Path:
        """Write one file in one piece, with something that wants a path.

        Args:
            name: Name of the file.
            save: Writes the content to the path it is given, whose name has the same ending.

        Returns:
            Path of the file.

        Raises:
            OutputFolderError: The folder cannot be written any more; an older file of that name is intact.
        """
        target = self.path / name
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.", suffix=target.suffix)
            os.close(descriptor)
        except OSError as error:
            raise OutputFolderError(f"{target} cannot be written ({_reason(error)}).") from error
        try:
            save(Path(temporary))
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException as error:
            Path(temporary).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise OutputFolderError(f"{target} cannot be written ({_reason(error)}).") from error
            raise
        return target


def to_json(value: Any) -> str:
    """JSON text of nested records.

    Args:
        value: Containers, numbers, text and dataclasses.

    Returns:
        The text; nan and infinity, which JSON does not have, are null.
    """
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """The value in terms of what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _reason(error: OSError) -> str:
    """What the system says, without the path."""
    return error.strerror or type(error).__name__
