"""Where a run took place: versions, source revision, machine."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

_GIT_TIMEOUT_SECONDS = 5

Environment = dict[str, str | int | float | bool | None]


def describe_environment(device: torch.device) -> Environment:
    """Facts to file beside the figures of a run.

    Args:
        device: Where the run takes place.

    Returns:
        Versions, the revision of the source if it is a git checkout, the device, the threads, and how many
        processes were running in the last minute.
    """
    commit, is_modified = _source_revision()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "feedalign": _version("feedalign"),
        "git_commit": commit,
        "git_modified": is_modified,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "load_average": _load_average(),
    }


def _load_average() -> float | None:
    """Running processes over the last minute, where the system counts them."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _version(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """Model of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _source_revision() -> tuple[str | None, bool | None]:
    """Commit of the checkout this file is tracked in, and whether the checkout differs from it.

    An installed copy inside somebody else's repository is not tracked there, so it has no commit.
    """
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """What a read-only git command prints, or None where git or the checkout is missing."""
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
