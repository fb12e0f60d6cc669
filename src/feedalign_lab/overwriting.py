"""Results that a run replaces: those of an earlier one are gone as soon as it trains, not once it ends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from feedalign_lab.results import ResultsFolder, to_json


@contextmanager
def replaced_results(folder: ResultsFolder, name: str, facts: dict[str, Any]) -> Iterator[None]:
    """Have results that are there say that a new run is under way, so that nobody takes the old ones for its own.

    However the process dies, what is left is of the new run, which begins anew or goes on from its checkpoints. The old
    results are put back where it ends in an error before it saved or wrote anything, such as data that are not there.

    Yields:
        Once they say so.

    Args:
        folder: Where the new run writes; its checkpoints are of no other run.
        name: Of the file with the results.
        facts: What the new run is, beside that it is under way.

    Raises:
        OutputFolderError: The folder cannot be written.
    """
    if not folder.taken():
        yield
        return
    path = folder.path / name
    old = _bytes(path)
    # The run that begins removes the pictures of the one before; it may be another process that does.
    begun = to_json({"status": "running", **facts, "result_files": _pictures(old)}).encode()
    folder.write_bytes(name, begun)
    try:
        yield
    except Exception:
        if _bytes(path) == begun and not folder.saved():
            _put_back(folder, name, old)
        raise


def _bytes(path: Path) -> bytes | None:
    """What is in a file, None where there is none that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _pictures(results: bytes | None) -> list[Any]:
    """The files that results say they left, none where they cannot be read."""
    try:
        found = json.loads(results or b"")["result_files"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def _put_back(folder: ResultsFolder, name: str, old: bytes | None) -> None:
    """Have a file as it was."""
    if old is None:
        with suppress(OSError):
            (folder.path / name).unlink(missing_ok=True)
    else:
        folder.write_bytes(name, old)
