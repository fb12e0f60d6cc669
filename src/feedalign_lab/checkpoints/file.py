"""One checkpoint as a file: written whole, and believed only where every byte is what was written.

The first line names the format and holds a SHA-256 of everything behind it: a line of JSON, the label, and what
`torch.save` makes of the content. Nothing of a file is interpreted before the sum is right, and the content is read
with `weights_only=True`: tensors, numbers, text and containers, no code.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from feedalign_lab.errors import CheckpointError

CHECKPOINT_FORMAT = 1
Label = Mapping[str, Any]
Content = Mapping[str, Any]

_FIRST_LINE = re.compile(rb"feedalign checkpoint (\d{1,9}) ([0-9a-f]{64})\n")
# Of the file that is being written; what a process that died left of it is written over.
_UNDER_WAY = ".new"


def path_before(path: Path) -> Path:
    """Where the checkpoint before the newest one is kept.

    Args:
        path: Of the newest.
    """
    return path.with_name(f"{path.name}.before")


def write_checkpoint(path: Path, label: Label, content: Content, *, keeps_older: bool) -> None:
    """Write a checkpoint; whatever happens, what was there before stays until the new one is safe on the disk.

    Args:
        path: Of the checkpoint; its folder is made if it is not there.
        label: What can be told without reading the content; plain values.
        content: Tensors, numbers, text and containers of them.
        keeps_older: The checkpoint that is there now is kept as the one before; else the one before stays as it is.

    Raises:
        CheckpointError: The folder cannot be written, or the disk is full.
    """
    under_way = path.with_name(f"{path.name}{_UNDER_WAY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with under_way.open("wb") as stream:
            _write(stream, label, content)
            stream.flush()
            os.fsync(stream.fileno())
        if keeps_older:
            with suppress(FileNotFoundError):
                os.replace(path, path_before(path))
        os.replace(under_way, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # Torch turns what a stream raises into a RuntimeError of its own.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise CheckpointError(f"The checkpoint {path} cannot be written ({reason}).") from error
    finally:
        with suppress(OSError):
            under_way.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> tuple[Label, Content]:
    """Read a checkpoint.

    Args:
        path: Of the checkpoint.

    Returns:
        Its label, and its content on the CPU.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: It cannot be read, is no checkpoint, is of a newer format, or is not what was written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read ({error.strerror or error}).") from error
    payload = _checked(path, data)
    end = payload.find(b"\n")
    try:
        label = json.loads(payload[:end])
        content = torch.load(io.BytesIO(payload[end + 1 :]), map_location="cpu", weights_only=True)
    except Exception as error:
        # The sum is right, so that somebody meant this: no code of torch or json says what it raises on all there is.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"The checkpoint {path} holds what no checkpoint does ({reason}).") from error
    if not isinstance(label, dict) or not isinstance(content, dict):
        raise CheckpointError(f"The checkpoint {path} holds a {type(content).__name__}, where a dict was expected.")
    return label, content


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, the one before and what is left of one that was being written; those that cannot be stay.

    Args:
        path: Of the checkpoint.
    """
    for one in (path, path_before(path), path.with_name(f"{path.name}{_UNDER_WAY}")):
        with suppress(OSError):
            one.unlink(missing_ok=True)


class _Summing(io.RawIOBase):
    """A stream that only grows, and the sum of what was written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sum = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write and add up."""
        self.sum.update(data)
        return self._stream.write(data)


def _write(stream: BinaryIO, label: Label, content: Content) -> None:
    stream.write(_first_line("0" * 64))
    summing = _Summing(stream)
    summing.write(json.dumps(label, separators=(",", ":")).encode() + b"\n")
    torch.save(dict(content), cast("IO[bytes]", summing))
    stream.seek(0)
    stream.write(_first_line(summing.sum.hexdigest()))


def _first_line(digest: str) -> bytes:
    return f"feedalign checkpoint {CHECKPOINT_FORMAT} {digest}\n".encode()


def _checked(path: Path, data: bytes) -> bytes:
    """What stands behind the first line, if that is right about it."""
    if not data:
        raise CheckpointError(f"The checkpoint {path} is empty.")
    first = _FIRST_LINE.match(data)
    if first is None:
        raise CheckpointError(f"{path} is no checkpoint, or its beginning is damaged.")
    if int(first[1]) != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"The checkpoint {path} has format {int(first[1])}, and this version of feedalign reads format "
            f"{CHECKPOINT_FORMAT}: go on with the version that wrote it."
        )
    rest = data[first.end() :]
    if hashlib.sha256(rest).hexdigest() != first[2].decode():
        raise CheckpointError(f"The checkpoint {path} is damaged: it was cut short, or bytes of it have changed.")
    return rest


def _flush_folder(folder: Path) -> None:
    """Have the new names on the disk, too, where the system lets folders be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
