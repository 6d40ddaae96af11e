"""``slimbind models``: the models known by name."""

from __future__ import annotations

import typer

from slimbind.cli import options


def models(as_json: options.Json = False) -> None:
    """List the models slimbind knows by name, with size, licence and source.

    A checkpoint is taken apart with `slimbind split NAME -o FOLDER` before it is used.
    """
    from slimbind.hub.known import catalog

    if as_json:
        import dataclasses
        import json

        told = [dataclasses.asdict(model) | {"needs_split": model.needs_split} for model in catalog()]
        typer.echo(json.dumps(told, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "modalities", "dim", "size", "license", "source", "what it is"):
        table.add_column(heading, justify="right" if heading in ("dim", "size") else "left", overflow="fold")
    for model in catalog():
        size = f"{model.bytes / 1e6:,.0f} MB" if model.bytes else ""
        where = "comes with slimbind" if model.packaged else model.source
        table.add_row(
            model.name, ", ".join(model.modalities), str(model.dim), size, model.license, where, model.summary
        )
    console = Console()
    if not console.is_terminal:
        console.width = 240  # a pipe has no width; lines cut at 80 columns would lose the sources
    console.print(table)
