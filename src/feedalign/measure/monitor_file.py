"""The file that a Monitor writes to: made sure of before the training, and of one writer at a time."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from feedalign.errors import MonitorError
from feedalign.measure.monitor_records import FILE_NAME, MonitorRecord, append

# Who writes to a file in this process: of two, the one made last.
_WRITERS: weakref.WeakValueDictionary[Path, RecordFile] = weakref.WeakValueDictionary()


def path_in(folder: object) -> Path | None:
    """Return the path of the file of records in a folder; None where there is to be no file.

    Args:
        folder: What the user gave.

    Returns:
        The path.

    Raises:
        MonitorError: It is no path.
    """
    if folder is None:
        return None
    if not isinstance(folder, (str, os.PathLike)):
        raise MonitorError(f"folder= is {type(folder).__name__}; give a path, or None for no file.")
    return Path(os.fsdecode(folder)).resolve() / FILE_NAME


class RecordFile:
    """One writer's hold of a file of records.

    Args:
        path: The file; its folder is made if there is none.

    Raises:
        MonitorError: The folder cannot be made, or there is no writing in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_ready = os.access(path.parent, os.W_OK | os.X_OK)
            if path.exists():
                is_ready = path.is_file() and os.access(path, os.R_OK | os.W_OK)
            self._left = _state(path)
        except OSError as error:
            raise MonitorError(
                f"The folder {path.parent} cannot be made ({error}); give a folder= that is there or can be made."
            ) from error
        if not is_ready:
            raise MonitorError(
                f"{path} cannot be written: the folder is not to be written to, or what has this name is no file of "
                "yours; give another folder=, or change its permissions."
            )
        _WRITERS[path] = self

    def append(self, record: MonitorRecord) -> None:
        """Add a record.

        Args:
            record: The record.

        Raises:
            MonitorError: Another wrote to the file since, in this process or in any other; nothing is written then.
            OSError: The system did not let it be written.
        """
        now = _state(self.path)
        # A file that was taken away is begun anew.
        if _WRITERS.get(self.path) is not self or now not in (self._left, None):
            raise MonitorError(
                f"Another Monitor was made for {self.path} after this one, or another process wrote there since; give "
                "each a folder of its own, or end the other run, make a new Monitor and use that alone."
            )
        append(self.path, record)
        self._left = _state(self.path)


def _state(path: Path) -> tuple[int, int] | None:
    """Which file it is, and its size; None: there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size
