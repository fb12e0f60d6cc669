"""What `attach` settled about a model before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from feedalign.assign import Candidate, Gated
from feedalign.blocks import Block
from feedalign.probe import OutputSite, Probe
from feedalign.recurrent.stepwise import StepwiseForward
from feedalign.rules.base import Rule


@dataclass(frozen=True)
class Blueprint:
    """A model read, its rules assigned.

    Attributes:
        model: The model.
        probe: Its forward on the example inputs.
        site: Where the error is taken.
        rules: Globs to rules, as settled for this output.
        candidates: The feedback points with their rules.
        gated: The layers whose input gradient is made with feedback weights.
        output_block: What the error itself reaches.
        recurrent: The recurrent modules that run step by step.
    """

    model: nn.Module
    probe: Probe
    site: OutputSite
    rules: dict[str, Rule]
    candidates: list[Candidate]
    gated: dict[str, Gated]
    output_block: Block
    recurrent: list[StepwiseForward]

    def is_last(self, candidate: Candidate) -> bool:
        """Whether the output layer's input depends on a point without passing another cut."""
        met = {id(child) for node in self.output_block.nodes for child, _ in node.next_functions}
        return id(candidate.call.node) in met
