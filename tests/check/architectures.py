"""All models that `check` is tried on."""

from __future__ import annotations

from check.awkward import AWKWARD
from check.generative import GENERATIVE
from check.pretrained import PRETRAINED
from check.sequences import SEQUENCES
from check.vision import VISION

CASES = [*AWKWARD, *VISION, *SEQUENCES, *GENERATIVE, *PRETRAINED]
