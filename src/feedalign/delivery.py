"""What the broadcast node is handed at the end of a forward: each receiver's tap, feedback and gatherings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feedalign.broadcast import Delivery, Plan
from feedalign.perturber import Perturber
from feedalign.placement import FeatureAxis
from feedalign.ranks import Shards, refuse_spread
from feedalign.receivers import DirectReceiver, HeadReceiver, Receiver, SlopeReceiver
from feedalign.rules.activity_perturbed import ActivityPerturbed
from feedalign.rules.base import DirectRule, EstimatingRule, Rule
from feedalign.store import FeedbackStore
from feedalign.tangents import CallKey


@dataclass(frozen=True)
class Site:
    """One feedback point: one call of one module.

    Attributes:
        key: Its name among taps, and in the store that of what the rule draws for it.
        module: The module's name.
        index: Which of the module's calls in a forward.
        rule: Who teaches here: a rule that sends signals, or one that cuts and sends nothing.
        receiver: How signals reach it; None where none is sent.
        parameters: Names of the parameters it teaches.
        held: Name in the store of the matrix that makes its signals: its own, or one that several points share.
        call: The module's name and the number of its call.
        label: The module's name, with the call's number if it is not the first.
        holds: Names in the store of its feedback: of a matrix, of a head's weight and bias, or none.
        draws: Whether its rule's limits draw at every forward.
        streams: Whether its signal exists before the output does.
    """

    key: str
    module: str
    index: int
    rule: Rule
    receiver: Receiver | None
    parameters: tuple[str, ...]
    held: str
    # Asked for at every forward: made once.
    call: CallKey = field(init=False)
    label: str = field(init=False)
    holds: tuple[str, ...] = field(init=False)
    draws: bool = field(init=False)
    streams: bool = field(init=False)

    def __post_init__(self) -> None:
        label = self.module if self.index == 0 else f"{self.module}#{self.index + 1}"
        direct = self.rule if isinstance(self.rule, DirectRule) else None
        made = {
            "call": (self.module, self.index),
            "label": label,
            "holds": self._holds(),
            "draws": direct is not None and direct.limits.draws,
            "streams": direct is not None and direct.streams,
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def _holds(self) -> tuple[str, ...]:
        if isinstance(self.receiver, HeadReceiver):
            return self.key, bias_key(self.key)
        is_projected = isinstance(self.receiver, DirectReceiver) and self.receiver.projection is not None
        return (self.held,) if isinstance(self.receiver, DirectReceiver) and not is_projected else ()


def plan_for(
    sites: Sequence[Site], weights: Sequence[Receiver], error_axis: FeatureAxis, num_perturbations: int
) -> Plan:
    """Lay out what the broadcast node delivers to the given sites and parameters."""
    receivers = [site.receiver for site in sites if site.receiver is not None]
    perturbed = [s.rule for s in sites if isinstance(s.rule, ActivityPerturbed) and s.rule.output == "perturbed"]
    at_output = SlopeReceiver("output", perturbed[0]) if perturbed else None
    return Plan((*receivers, *weights), error_axis, at_output, num_perturbations)


def held_by(store: FeedbackStore, site: Site) -> tuple[Tensor, ...]:
    """Return the feedback of a site: a matrix, a head's weight and bias, or nothing."""
    return tuple(map(store.feedback, site.holds))


def bias_key(key: str) -> str:
    """Name in the store of the bias of a head."""
    return f"{key}_bias"


def to_points(
    sites: Sequence[Site],
    taps: Mapping[str, Tensor],
    store: FeedbackStore,
    shards: Shards,
    perturber: Perturber | None,
    tangent: Tensor | None,
    valid: Mapping[CallKey, Tensor],
    *,
    learns: bool,
) -> list[Delivery]:
    """Return what goes to feedback points.

    Args:
        sites: The points that receive from the node.
        taps: Their activations, by key.
        store: Their feedback.
        shards: Parts of the model that are sharded.
        perturber: What drew the perturbations of this forward.
        tangent: Tangent of the output.
        valid: Which steps count, of those points whose sequences do not count in full.
        learns: Feedback that is averaged in the forward is to move on.

    Returns:
        One delivery for each site.
    """
    deliveries = []
    for site in sites:
        held: tuple[Tensor, ...] = held_by(store, site)
        if shards.parts:
            refuse_spread(held, site.label)
        kept: tuple[Tensor, ...] = ()
        if perturber is not None and site.call in perturber.drawn:
            assert site.receiver is not None
            with torch.no_grad():
                drawn = perturber.drawn.pop(site.call)
                gathered = site.receiver.gather(drawn, tangent, valid.get(site.call))
                if len(drawn) == 0 and isinstance(site.rule, EstimatingRule):
                    # No samples, no news: an estimate that agrees with what is held.
                    gathered = held[0].detach()
                if isinstance(site.rule, EstimatingRule) and site.rule.keeps_average:
                    held = _averaged(site.rule, site.key, held, gathered, store, shards, learns=learns)
                else:
                    kept = (gathered,)
        if site.draws:
            kept = (*kept, store.clock())
        deliveries.append(Delivery(taps[site.key], held, kept, valid.get(site.call)))
    return deliveries


def _averaged(
    rule: EstimatingRule,
    key: str,
    held: tuple[Tensor, ...],
    estimate: Tensor,
    store: FeedbackStore,
    shards: Shards,
    *,
    learns: bool,
) -> tuple[Tensor, ...]:
    """Move the average on in the store; return the matrix that makes this step's signals."""
    if not learns:
        return held
    new = rule.averaged(held[0], shards.mean(estimate.to(held[0].dtype)))
    store.replace(key, new)
    return (new,) if rule.projects_average else held
