"""A reader of pickles that makes plain containers and numpy arrays of numbers, and nothing else.

Whatever a pickle names is replaced by a stand-in that only takes notes: nothing of numpy's or of anybody's is called
by the file.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.errors import CorruptFileError, MissingDataError, UnsafePickleError

StandIn = Any
"""What the unpickler is given in the place of a class or function: something without attributes to set."""

_KIND = re.compile(r"[<|=]?(b1|[iu][1248]|f[48])")
_NOTES = {"PUT", "BINPUT", "LONG_BINPUT"}


def read_restricted_pickle(
    path: Path,
    encoding: Literal["bytes", "latin1"] = "bytes",
    others: Mapping[tuple[str, str], StandIn] | None = None,
) -> Any:
    """Read a pickle without letting it call anything.

    Args:
        path: The pickle.
        encoding: As what strings come that Python 2 wrote.
        others: Stand-ins for what may be named besides numpy arrays, by module and name.

    Returns:
        The object: containers, numbers, strings, bytes and arrays; arrays that are not the object itself or values of
        its dictionary are stand-ins, which `as_array` makes arrays of.

    Raises:
        UnsafePickleError: The pickle names a function or a class that is not allowed.
        CorruptFileError: The pickle is truncated or damaged.
        MissingDataError: The file cannot be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        _refuse_oversized(raw)
        return _finished(_RestrictedUnpickler(raw, path, encoding, others or {}).load())
    except UnsafePickleError:
        raise
    except Exception as error:
        # A damaged pickle may raise nearly anything: the documentation of pickle says so.
        detail = str(error) or type(error).__name__
        raise CorruptFileError(f"{path} is not a whole pickle: {detail}. Fetch the file again.") from error


def as_array(value: object) -> NDArray[Any]:
    """Return the array that a stand-in stands for.

    Args:
        value: What a pickle has where an array is expected.

    Returns:
        The array.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, _Array):
        raise ValueError(f"an array was expected, not {type(value).__name__}")
    return value.made()


def _finished(value: Any) -> Any:
    """The object with arrays in the places of stand-ins, also of a dictionary's values."""
    if isinstance(value, _Array):
        return value.made()
    if isinstance(value, dict):
        return {key: entry.made() if isinstance(entry, _Array) else entry for key, entry in value.items()}
    return value


def _refuse_oversized(raw: bytes) -> None:
    """Raise if a pickle makes room for more than it can hold; what it names is not looked at here."""
    for operation, argument, _ in pickletools.genops(raw):
        if operation.name == "BYTEARRAY8" or (operation.name in _NOTES and int(str(argument)) > len(raw)):
            raise pickle.UnpicklingError(f"{operation.name} asks for more memory than the file can need")


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler with a list of what may be named."""

    def __init__(self, raw: bytes, path: Path, encoding: str, others: Mapping[tuple[str, str], StandIn]) -> None:
        # In memory, where no more can be asked for than there is.
        super().__init__(io.BytesIO(raw), encoding=encoding)
        self._path, self._allowed = path, {**_ALLOWED, **others}

    def find_class(self, module: str, name: str) -> Any:
        """The allowed stand-in for a global the pickle names."""
        allowed = self._allowed.get((module, name))
        if allowed is None:
            raise UnsafePickleError(
                f"{self._path} asks for {f'{module}.{name}'!r} and was refused: only numpy arrays and what belongs to "
                "its format are read from it. Fetch the file from its official place."
            )
        return allowed

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to objects outside the file."""
        raise UnsafePickleError(f"{self._path} refers to an object outside the file ({pid!r}): it was refused.")


class _Kind:
    """Stands for numpy's `dtype`."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *options: object) -> None:
        del options
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else order

    def dtype(self) -> np.dtype[Any]:
        """The dtype, if it is one of numbers as this machine has them."""
        if not _KIND.fullmatch(self.code) or self.order not in {"<", "|", "="}:
            raise ValueError(f"arrays of {self.code!r} in byte order {self.order!r} are not read")
        return np.dtype(self.code)


class _Array:
    """Stands for numpy's `_reconstruct`, which makes an empty array that the pickle then fills."""

    __slots__ = ("state",)

    def __init__(self, *arguments: object) -> None:
        # Numpy itself always asks for an empty array; a file must not be able to ask for another.
        del arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> NDArray[Any]:
        """The array, if there are as many numbers as its shape says."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array without its numbers")
        _, shape, kind, is_fortran, content = self.state
        raw = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(raw, bytes) or not isinstance(kind, _Kind):
            raise ValueError("an array does not consist of plain numbers")
        dtype = kind.dtype()
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"an array cannot have the shape {shape}")
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise ValueError(f"an array of shape {shape} and {dtype} has {len(raw)} bytes")
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if is_fortran else "C").copy()


class _Latin1:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes into old pickles."""

    __slots__ = ()

    def __call__(self, text: str, encoding: object) -> bytes:
        if encoding not in {"latin1", b"latin1"}:
            raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r} instead of latin1")
        return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], StandIn] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): object(),
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _Latin1(),
}
