"""Which cases a benchmark has: architectures at their sizes, and sweeps of one dimension."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedalign_lab.bench.architectures import ARCHITECTURES, DIMENSIONS, Architecture, Dimension, Size
from feedalign_lab.bench.contestants import BASELINE, NAMES, ON_GPU, STREAMING, parse_names
from feedalign_lab.bench.options import BenchOptions
from feedalign_lab.bench.peers import PEERS
from feedalign_lab.errors import SettingError

_MLP = replace(ARCHITECTURES["mlp-wide"], name="mlp")
# What is swept where no architecture is named, around which size, and over what.
_SWEPT: dict[Dimension, tuple[Architecture, Size, tuple[int, ...]]] = {
    "width": (_MLP, Size(512, 4, 128), (32, 128, 512, 1024, 2048)),
    "depth": (_MLP, Size(512, 4, 128), (1, 2, 4, 8, 16, 32)),
    "batch": (_MLP, Size(1024, 4, 128), (1, 8, 32, 128, 512)),
    "steps": (ARCHITECTURES["gru"], Size(128, 1, 32, 28), (12, 25, 50, 100, 200)),
}
_SMALL: dict[Dimension, tuple[int, ...]] = {"width": (8, 16), "depth": (2, 3), "batch": (1, 4), "steps": (3, 6)}
# Of the size of an architecture that is named.
_FACTORS = (0.25, 0.5, 1.0, 2.0)
_SWEPT_RULES = ("fa", "dfa", STREAMING, "dkp", "fdfa", "fg-a")
_SMALL_ROUNDS, _SMALL_SECONDS = 5, 2.0


@dataclass(frozen=True)
class BenchCase:
    """One network at one size, and who steps on it.

    Attributes:
        architecture: The network.
        size: Its size.
        contestants: Names, backprop first.
        sweep: The dimension that this case is a point of; None for the table.
        seconds: How long it is timed at most.
    """

    architecture: Architecture
    size: Size
    contestants: tuple[str, ...]
    sweep: Dimension | None
    seconds: float

    @property
    def title(self) -> str:
        """The case in words."""
        return f"{self.architecture.name}: {self.architecture.describe(self.size)}"


@dataclass(frozen=True)
class BenchPlan:
    """All cases.

    Attributes:
        cases: In the order in which they are timed.
        rounds: Steps of each contestant, at most.
    """

    cases: tuple[BenchCase, ...]
    rounds: int


def plan_of(options: BenchOptions, *, on_gpu: bool) -> BenchPlan:
    """Lay out the cases that the options name.

    Args:
        options: Of the command.
        on_gpu: Whether the device is a GPU, where compiled contestants take part too.

    Returns:
        The plan.

    Raises:
        UnknownNameError: A rule or an architecture does not exist.
        SettingError: A number is out of range, or no architecture that is named has the dimension of the sweep.
    """
    if options.rounds < 1 or not options.seconds > 0:
        raise SettingError(
            f"--rounds {options.rounds} --seconds {options.seconds:g}: at least one round, in more than no time."
        )
    everyone = [name for name in NAMES if on_gpu or name not in ON_GPU]
    rules = parse_names(options.rules, everyone, "rule or contestant")
    table = [ARCHITECTURES[n] for n in parse_names(options.architectures, list(ARCHITECTURES), "architecture")]
    cases: list[BenchCase] = []
    if options.sweep in {"none", "all"}:
        cases += [_case(options, one, one.small if options.quick else one.size, rules, None) for one in table]
    swept = [name for name in DIMENSIONS if options.sweep in {name, "all"}]
    for dimension in swept:
        cases += [
            _case(options, one, size, _sweeping(one) if options.rules == "all" else rules, dimension)
            for one, size in _sizes(options, dimension, table)
        ]
    return BenchPlan(tuple(cases), min(options.rounds, _SMALL_ROUNDS) if options.quick else options.rounds)


def _case(
    options: BenchOptions, architecture: Architecture, size: Size, rules: Sequence[str], sweep: Dimension | None
) -> BenchCase:
    contestants = tuple(dict.fromkeys((BASELINE, *rules)))
    seconds = _SMALL_SECONDS if options.quick else options.seconds
    return BenchCase(architecture, size, contestants, sweep, seconds / 3 if sweep else seconds)


def _sweeping(architecture: Architecture) -> tuple[str, ...]:
    """Who is swept where nobody is named: a rule of each kind, and peers where they have the layers."""
    return (*_SWEPT_RULES, *PEERS) if "steps" not in architecture.varies else _SWEPT_RULES


def _sizes(
    options: BenchOptions, dimension: Dimension, table: Sequence[Architecture]
) -> list[tuple[Architecture, Size]]:
    """Sizes of one sweep."""
    if options.architectures == "all":
        architecture, base, values = _SWEPT[dimension]
        if options.quick:
            base, values = architecture.small, _SMALL[dimension]
        return [(architecture, base.with_(dimension, value)) for value in values]
    having = [one for one in table if dimension in one.varies]
    if not having:
        raise SettingError(
            f"--sweep {dimension}: {', '.join(one.name for one in table)} has no {dimension} to vary; choose of "
            f"{', '.join(name for name, one in ARCHITECTURES.items() if dimension in one.varies)}."
        )
    sizes = []
    for one in having:
        base = one.small if options.quick else one.size
        values = tuple(dict.fromkeys(max(1, round(factor * getattr(base, dimension))) for factor in _FACTORS))
        sizes += [(one, base.with_(dimension, value)) for value in values]
    return sizes
