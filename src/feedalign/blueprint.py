"""What `attach` settled about a model before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from feedalign.assign import Candidate
from feedalign.blocks import Block
from feedalign.probe import OutputSite, Probe
from feedalign.rules.base import LayerwiseRule, Rule


@dataclass(frozen=True)
class Blueprint:
    """A model read, its rules assigned.

    Attributes:
        model: The model.
        probe: Its forward on the example inputs.
        site: Where the error is taken.
        rules: Globs to rules, as settled for this output.
        candidates: The feedback points with their rules.
        gated: The layers with layer-wise feedback.
        output_block: What the error itself reaches.
    """

    model: nn.Module
    probe: Probe
    site: OutputSite
    rules: dict[str, Rule]
    candidates: list[Candidate]
    gated: dict[str, LayerwiseRule]
    output_block: Block
