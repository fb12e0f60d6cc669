"""Directives that put into a page what the code itself says."""

from __future__ import annotations

import os
import subprocess
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import tables


class RulesTable(SphinxDirective):
    """A table of all rules, from their declared facts."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        return self.parse_text_to_nodes(tables.rules_in_full())


class CommandOutput(SphinxDirective):
    """What `feedalign` prints for the arguments given."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the command and its output."""
        arguments = self.arguments[0].split()
        command = [sys.executable, "-m", "feedalign_lab.cli", *arguments]
        plain = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, env=plain, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise self.error(f"feedalign {' '.join(arguments)} failed: {done.stderr}")
        text = f"$ feedalign {' '.join(arguments)}\n{done.stdout.strip()}"
        block = nodes.literal_block(text, text)
        block["language"] = "text"
        return [block]


def _leave_out_arguments(_app: Sphinx, _what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Drop the constructor's arguments, in place, from the docstring of what `attach` alone makes."""
    if name == "feedalign.Handle" and "Args:" in lines:
        start = lines.index("Args:")
        end = next((i for i in range(start + 1, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
        del lines[start:end]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives.

    Args:
        app: The application.

    Returns:
        What Sphinx wants to know of an extension.
    """
    app.add_directive("rules-table", RulesTable)
    app.add_directive("command-output", CommandOutput)
    # Before napoleon, which turns the section into a list of fields.
    app.connect("autodoc-process-docstring", _leave_out_arguments, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
