"""Writes docs/cli.md from the program itself: `make docs`. The tests fail when the file and the program differ."""

from __future__ import annotations

import os
from pathlib import Path

from typer.testing import CliRunner

from slimbind.cli.app import COMMANDS, build

TARGET = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Generated from the program; `make docs` writes it again.

Data goes to standard output, messages and progress to standard error. Exit codes: 0 all done, 1 failed, 2 wrong usage,
3 refused because the result says something else than its reference, 4 done but some items failed, 130 stopped.
"""


def render() -> str:
    """The whole page."""
    # Help is laid out for the terminal it is shown on; here it always has the same width and no colours.
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    app, runner = build(), CliRunner()
    parts = [HEAD, _block("slimbind", runner.invoke(app, ["--help"], prog_name="slimbind").output)]
    parts += [
        f"## {name}\n\n{_block(f'slimbind {name}', runner.invoke(app, [name, '--help'], prog_name='slimbind').output)}"
        for name in COMMANDS
    ]
    return "\n".join(parts)


def _block(command: str, output: str) -> str:
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    return "\n".join(["```", f"$ {command} --help", *lines, "```", ""])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
