"""From rows of numbers, written as a paper prints them, to cells."""

from collections.abc import Callable, Mapping, Sequence

from feedalign_lab.papers.cells import Cell, Protocol, Published
from feedalign_lab.papers.tolerances import tolerance_of


def published(text: str, trials: int | None = None) -> Published:
    """A number as it was printed.

    Args:
        text: "1.65 ± 0.06", or "79.2".
        trials: How many trials it is the mean of.

    Returns:
        The number.
    """
    mean, _, std = text.partition("±")
    return Published(float(mean), float(std) if std else None, trials)


def cells_of_row(
    row: str,
    data: str,
    network: str,
    numbers: Mapping[str, str],
    protocol: Protocol,
    *,
    metric: str = "accuracy",
    trials: int | None = None,
    variant: str = "",
    measured: str = "",
    needs: str = "",
    elsewhere: str = "",
) -> tuple[Cell, ...]:
    """The cells of one row, each called "<row>/<rule>" or "<row>/<rule>/<variant>".

    Args:
        row: What the row is called.
        data: What a user would type after `--data`.
        network: What a user would type after `--network`.
        numbers: By rule, as printed.
        protocol: How they are trained.
        metric: What the numbers are.
        trials: How many trials each is the mean of.
        variant: What else tells these cells from others of the row.
        measured: See `Cell`.
        needs: See `Cell`.
        elsewhere: See `Cell`.

    Returns:
        A cell for each rule, with the tolerance of its kind.
    """
    ending = f"/{variant}" if variant else ""
    found = {rule: published(text, trials) for rule, text in numbers.items()}
    return tuple(
        Cell(
            name=f"{row}/{rule}{ending}",
            data=data,
            network=network,
            rule=rule,
            metric=metric,
            published=number,
            protocol=protocol,
            tolerance=tolerance_of(data, rule, metric, number.mean),
            measured=measured,
            needs=needs,
            elsewhere=elsewhere,
        )
        for rule, number in found.items()
    )


def cells_of_grid(
    printed: Mapping[str, Mapping[str, str]],
    rules: Sequence[str],
    protocol: Callable[[str, str], Protocol],
    *,
    trials: int,
    needs: Mapping[str, str] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> tuple[Cell, ...]:
    """The cells of a table of accuracies, each called "<data>/<network>/<rule>".

    Args:
        printed: By data and network, a number for each rule, with commas between them; "-" for none.
        rules: Names of the rules, in the order of the numbers.
        protocol: How a network is trained by a rule.
        trials: How many trials each number is the mean of.
        needs: By data, see `Cell`.
        elsewhere: By data, see `Cell`.

    Returns:
        The cells, with the tolerance of their kind.
    """
    cells: list[Cell] = []
    for data, networks in printed.items():
        for network, row in networks.items():
            for rule, number in zip(rules, row.split(", "), strict=True):
                if number == "-":
                    continue
                cells += cells_of_row(
                    f"{data}/{network}",
                    data,
                    network,
                    {rule: number},
                    protocol(network, rule),
                    trials=trials,
                    needs=(needs or {}).get(data, ""),
                    elsewhere=(elsewhere or {}).get(data, ""),
                )
    return tuple(cells)
