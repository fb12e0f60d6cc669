"""A reader of pickles that allows plain containers and numpy arrays of bytes, and nothing else."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.errors import CorruptFileError, UnsafePickleError


def read_restricted_pickle(path: Path) -> Any:
    """Read a pickle without letting it call anything but what rebuilds a numpy array.

    Args:
        path: The pickle; one written by Python 2 gives its strings as bytes.

    Returns:
        The object: containers, numbers, strings, bytes and arrays.

    Raises:
        UnsafePickleError: The pickle names a function or a class that is not allowed.
        CorruptFileError: The pickle is truncated or damaged.
    """
    try:
        with path.open("rb") as stream:
            return _RestrictedUnpickler(stream, path).load()
    except (UnsafePickleError, OSError):
        raise
    except Exception as error:
        # A damaged pickle may raise nearly anything: the documentation of pickle says so.
        detail = str(error) or type(error).__name__
        raise CorruptFileError(f"{path} is not a whole pickle: {detail}.") from error


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler with a list of what may be named."""

    def __init__(self, stream: Any, path: Path) -> None:
        super().__init__(stream, encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The allowed stand-in for a global the pickle names."""
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise UnsafePickleError(
                f"{self._path} asks for {module}.{name} and was refused: only numpy arrays are read from it."
            )
        return allowed

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to objects outside the file."""
        raise UnsafePickleError(f"{self._path} refers to an object outside the file ({pid!r}): it was refused.")


def _empty_array(subtype: Any, shape: Any, typecode: Any) -> NDArray[Any]:
    """Stand-in for numpy's `_reconstruct`: the empty array that the pickle then fills.

    The arguments are ignored on purpose: numpy itself always writes an empty ndarray of bytes here,
    and a file must not be able to ask for a huge one or for another class.
    """
    del subtype, shape, typecode
    return np.empty(0, dtype=np.uint8)


def _encode_latin1(text: str, encoding: Any) -> bytes:
    """Stand-in for `_codecs.encode`, by which Python 3 writes bytes into old pickles."""
    if encoding not in {"latin1", b"latin1"}:
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r} instead of latin1")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode_latin1,
}
