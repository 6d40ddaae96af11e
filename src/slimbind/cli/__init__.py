"""The command line. ``main`` is the console script; each command lives in a file of its own."""

from __future__ import annotations

from slimbind.cli.app import main

__all__ = ["main"]
