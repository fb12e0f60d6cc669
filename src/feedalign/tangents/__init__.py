"""Carrying directional derivatives beside a forward: by hand where every module is known, else as dual tensors."""

from __future__ import annotations

from feedalign.tangents.by_hand import HandCarrier
from feedalign.tangents.carrier import CallKey, Carrier, NoCarrier
from feedalign.tangents.dual import DualCarrier
from feedalign.tangents.path import Path, find_path

__all__ = ["CallKey", "Carrier", "DualCarrier", "HandCarrier", "NoCarrier", "Path", "find_path"]
