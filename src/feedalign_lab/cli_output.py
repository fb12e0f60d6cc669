"""Tables on stdout."""

from rich.console import Console
from rich.table import Table

_MIN_TABLE_WIDTH = 120


def print_table(table: Table) -> None:
    """Print a table, wide enough to be read in a file too.

    Args:
        table: The table.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, _MIN_TABLE_WIDTH))
    # Rich ends the process by itself where nobody reads on; the text is printed as any other.
    with console.capture() as captured:
        console.print(table)
    print(captured.get(), end="")
