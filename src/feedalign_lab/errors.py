"""The errors of the lab, each a sentence that says what was found and what to do."""

import difflib
from collections.abc import Iterable

from feedalign.errors import FeedalignError

# Of a sentence, in characters.
_LONGEST = 1500
# More than these in one sentence nobody reads.
_NUM_NAMES_TOLD = 40


class LabError(FeedalignError):
    """Base of every error the lab raises on purpose; the command line turns it into one line and status 2.

    A sentence that quotes a damaged file may be as long as the file: of one too long, beginning and end are kept.
    """

    def __init__(self, sentence: str = "", *others: object) -> None:
        """Say what was found, what was expected and what to do.

        Args:
            sentence: This.
            others: Whatever else belongs to the error.
        """
        if len(sentence) > _LONGEST:
            sentence = f"{sentence[: _LONGEST // 2]} [...] {sentence[-_LONGEST // 2 :]}"
        super().__init__(sentence, *others)


class UnknownNameError(LabError, ValueError):
    """A data set, network or rule that does not exist."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        """Say what was asked for, which valid names look like it, and what the valid ones are.

        Args:
            kind: What the name stands for, e.g. "data set".
            name: The name as it was given.
            valid: Every name that would have been right.
        """
        names = list(valid)
        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        num_more = len(names) - _NUM_NAMES_TOLD
        told = [*names[:_NUM_NAMES_TOLD], f"and {num_more} more"] if num_more > 1 else names
        super().__init__(f"There is no {kind} called {name!r}.{hint} The valid names are: {', '.join(told)}.")


class SettingError(LabError, ValueError):
    """A setting outside its range, or two settings that do not go together."""


class MissingDataError(LabError, FileNotFoundError):
    """A data file that is not on this machine and could not be fetched."""


class CorruptFileError(LabError, ValueError):
    """A data file whose content is not what its format promises."""


class UnsupportedSeriesError(LabError, ValueError):
    """Series that are what their format allows, but not what can be trained on: gaps, lengths that differ."""


class UnsafePickleError(CorruptFileError):
    """A pickle that asks for something other than a numpy array."""


class OutputFolderError(LabError, OSError):
    """A results folder that cannot be written, or that already holds results."""


class CheckpointError(LabError, ValueError):
    """A checkpoint that cannot be written, or that nothing can be gone on from: damaged, or of another format."""


class DivergedError(LabError, ArithmeticError):
    """A trial that blew up: numbers that are not finite, or a loss far above that of the untrained network."""


class TextError(LabError, ValueError):
    """Text that a language model cannot be trained on: none of it, too little, or in no split."""


class UnknownTokenError(TextError):
    """Text that a tokenizer has no tokens for."""


class MissingPackageError(LabError, ImportError):
    """A package that an extra of the installation would bring."""


class SceneError(LabError, ValueError):
    """Views of a scene that cannot be trained on: pictures, poses or a camera that do not go together."""
