"""The tests of the clone that is run from: nothing is timed that they find wrong."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from feedalign_lab.errors import MissingPackageError

PASSED, FAILED, NONE, LEFT_OUT = "passed", "failed", "none: installed without its tests", "left out"


def clone() -> Path | None:
    """Return the clone that this file is in; None for an installed package."""
    root = Path(__file__).parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "tests").is_dir() else None


def run_tests(root: Path | None) -> str:
    """Run the default test suite of a clone, quietly.

    Args:
        root: The clone; None: there is none.

    Returns:
        How it ended, as records have it: `PASSED`, `FAILED` or `NONE`.

    Raises:
        MissingPackageError: There are tests, and nothing to run them with.
    """
    if root is None:
        return NONE
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("xdist") is None:
        raise MissingPackageError(
            "Nothing is timed in a clone before its tests pass, and pytest with pytest-xdist, which runs them, is not "
            "installed: pip install -e '.[lab,dev]', or time without tests, --untested, which the record then says."
        )
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "--no-header"]
    # What the tests print is no part of what this command prints.
    done = subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr, check=False)
    return PASSED if done.returncode == 0 else FAILED
