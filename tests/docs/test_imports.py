"""The library stands on torch, numpy and the standard library alone, each callback on its framework besides."""

from __future__ import annotations

import subprocess
import sys

# Notes who imports what: torch brings packages of its own, which are none of ours.
SCRIPT = """
import builtins, importlib, pkgutil, sys

allowed = {"torch", "numpy", "feedalign", *sys.stdlib_module_names}
foreign, plain_import = set(), builtins.__import__


def noting(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    package = name.partition(".")[0]
    is_callback = importer == f"feedalign.callbacks.{package}"
    if importer.partition(".")[0] == "feedalign" and level == 0 and package not in allowed and not is_callback:
        foreign.add(f"{importer} imports {name}")
    return plain_import(name, globals, locals, fromlist, level)


builtins.__import__ = noting
import feedalign

found = [module.name for module in pkgutil.walk_packages(feedalign.__path__, "feedalign.")]
for name in found:
    importlib.import_module(name)
assert len(found) > 20, found
assert not foreign, sorted(foreign)
lab = [name for name in sys.modules if name.partition(".")[0] == "feedalign_lab"]
assert not lab, lab
"""


def test_the_library_imports_nothing_but_torch_numpy_and_the_standard_library() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_check_would_notice() -> None:
    """Without the callbacks, whose frameworks take seconds to import."""
    spoiled = SCRIPT.replace('{"torch", "numpy", "feedalign"', '{"torch", "feedalign"').replace(
        "import feedalign\n", "import feedalign\nexec('import numpy', {'__name__': 'feedalign.spoiled'})\n"
    )
    spoiled = spoiled.replace("importlib.import_module(name)", "'callbacks' in name or importlib.import_module(name)")
    done = subprocess.run([sys.executable, "-c", spoiled], capture_output=True, text=True, check=False)
    assert "feedalign.spoiled imports numpy" in done.stderr


# What `import feedalign` brings beyond what `import torch` has brought already; nothing that takes time to read.
BEYOND_TORCH = """
import sys
import torch

before = set(sys.modules)
import feedalign

brought = {name.partition(".")[0] for name in set(sys.modules) - before}
foreign = brought - {"feedalign", *sys.stdlib_module_names}
# Read when first asked for: with them, Python looks through all of torch's objects for garbage on the way.
early = [name for name in sys.modules if name.startswith(("feedalign.measure", "feedalign.checking"))]
assert not early, early
assert feedalign.measure.alignment and feedalign.check and feedalign.Suggestion
assert not foreign, sorted(foreign)
slow = {name for name in set(sys.modules) - before if name.startswith(("torch._dynamo", "torch._inductor", "torch.fx"))}
assert not slow, sorted(slow)
"""


def test_importing_the_library_brings_nothing_beyond_torch_but_itself() -> None:
    done = subprocess.run([sys.executable, "-c", BEYOND_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
