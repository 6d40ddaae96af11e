"""The ``slimbind`` program: its commands, and how errors become messages and exit codes.

Exit codes: 0 all done; 1 failed; 2 wrong usage; 3 refused because the result says something else than its reference;
4 done, but some items failed or were held back; 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from typing import Any

import typer

from slimbind import __version__
from slimbind.cli import console
from slimbind.errors import DriftError, SlimbindError, UsageError

# Command -> the module under slimbind.cli that holds its function or group, in the order of `slimbind --help`. Adding
# a command is one line here and one file there; those files import anything heavy inside their functions.
COMMANDS: dict[str, str] = {
    "embed": "embed",
    "index": "index",
    "search": "search",
    "collection": "collection",
    "push": "push",
    "models": "models",
    "info": "info",
    "split": "split",
    "export": "export",
    "quantize": "quantize",
    "fidelity": "fidelity",
    "eval": "evaluate",
}


def _version(show: bool) -> None:
    if show:
        typer.echo(f"slimbind {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Multimodal embedding models taken apart by modality, made small and fast, and searchable."""


def build() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="slimbind",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, module in COMMANDS.items():
        found = getattr(import_module(f"slimbind.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def main(args: list[str] | None = None) -> None:
    """Run the program and exit; never shows a traceback for an error slimbind knows.

    ``SLIMBIND_TRACEBACK=1`` shows it all the same, for a bug report.
    """
    # Being told to end is treated like Ctrl-C: what is half-written is removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _mend_streams()
    sys.exit(run(args))


def _mend_streams() -> None:
    """Make the standard streams what the code below takes for granted, wherever the program was started from.

    The number of a stream that the caller closed (``>&-``, some job runners) would be given to the next file opened,
    and messages be written into it: the null device takes its place. Reading from it ends at once, writing data to it
    is an error as it is for a closed stream, and messages vanish.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)  # the lowest free one, so the one that was closed
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    # A pipe on Windows, or the C locale, cannot say every character: one that cannot be said is no reason to end.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def run(args: list[str] | None = None) -> int:
    """Run the program with ``args`` (by default the process's) and return its exit code."""
    code = _run(args)
    try:
        sys.stdout.flush()
    except OSError as error:
        # Standard output is pointed elsewhere so that the interpreter's own last flush does not complain as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            console.error(f"standard output: {error.strerror}")
            return code or 1
    return code


def _run(args: list[str] | None) -> int:
    try:
        result: Any = build()(args, standalone_mode=False)
    except (BrokenPipeError, SystemExit):
        # The reader of our output went away (`slimbind embed ... | head`): stop, and say nothing. Typer's way of saying
        # so is SystemExit.
        return 0
    except KeyboardInterrupt:
        result = 130
    except SlimbindError as error:
        if os.environ.get("SLIMBIND_TRACEBACK"):
            raise
        console.error(error.message, error.hint)
        return 3 if isinstance(error, DriftError) else 2 if isinstance(error, UsageError) else 1
    except typer.Exit as stop:
        result = stop.exit_code
    except typer.Abort:
        result = 130
    except OSError as error:
        # What no layer below foresaw is still the machine's fault, mostly: standard output on a full disk.
        if os.environ.get("SLIMBIND_TRACEBACK"):
            raise
        console.error(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
        return 1
    except Exception as error:
        return _explain_usage(error)
    if result == 130:  # from us, or from typer, which catches Ctrl-C and says nothing
        console.say("stopped")
    return result if isinstance(result, int) else 0


def _explain_usage(error: Exception) -> int:
    """Print click's own errors (unknown option, bad value) in its words; anything else is a bug and is raised."""
    show = getattr(error, "show", None)
    code = getattr(error, "exit_code", None)
    if show is None or code is None:
        raise error
    show()
    return int(code)
