"""Writes docs/cli.md from the program itself: `make docs`. The tests fail when the file and the program differ."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import typer
from typer.testing import CliRunner

from slimbind.cli.app import COMMANDS, build

TARGET = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Generated from the program; `make docs` writes it again.

Data goes to standard output, messages and progress to standard error. Exit codes: 0 all done, 1 failed, 2 wrong usage,
3 refused because the result says something else than its reference, 4 done but some items failed or were held back,
130 stopped.
"""


def render() -> str:
    """The whole page."""
    # Help is laid out for the terminal it is shown on; here it always has the same width and no colours.
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    app, runner = build(), CliRunner()
    parts = [HEAD, _block("slimbind", runner.invoke(app, ["--help"], prog_name="slimbind").output)]
    for name in COMMANDS:
        parts.append(f"## {name}\n\n{_help(app, runner, name)}")
        group = getattr(import_module(f"slimbind.cli.{COMMANDS[name]}"), name)
        if isinstance(group, typer.Typer):
            names = [str(one.name or one.callback.__name__) for one in group.registered_commands if one.callback]
            parts += [_help(app, runner, name, one) for one in names]
    return "\n".join(parts)


def _help(app: typer.Typer, runner: CliRunner, *names: str) -> str:
    output = runner.invoke(app, [*names, "--help"], prog_name="slimbind").output
    return _block(" ".join(["slimbind", *names]), output)


def _block(command: str, output: str) -> str:
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    return "\n".join(["```", f"$ {command} --help", *lines, "```", ""])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
