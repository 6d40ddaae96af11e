"""``slimbind eval memory``: what an open tower costs, beside what its numbers alone would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, evaluate_data, options
from slimbind.cli.evaluate_output import Html, check_target, finish


def memory(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", envvar="SLIMBIND_MODEL", help="A model's name, or its folder.")
    ] = "mini",
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="SLIMBIND_DATA", help="A folder of files, or a .txt (default: what is shipped)."),
    ] = None,
    modalities: options.Modalities = "",
    repeats: Annotated[int, typer.Option(min=1, help="Fresh processes for each tower; the median counts.")] = 3,
    threads: options.Threads = None,
    streams: Annotated[
        int | None, typer.Option(min=1, help="Forward passes side by side (default: what suits the tower).")
    ] = None,
    progress: options.Progress = None,
    as_json: options.Json = False,
    html: Html = None,
) -> None:
    """Measure what each tower costs in memory, in fresh processes of its own. Linux only.

    computed: the bytes of its parameters and buffers as they are kept, and as fp32 numbers. opened: after the first
    item. steady: after batches of several sizes. peak: the most on the way. closed: what is left when it was closed.
    All but the computed ones are the growth of the resident set, engine libraries not counted. The ratios are to the
    computed bytes.

    slimbind eval memory mini --modalities vision
    """
    from slimbind.evaluate.memory import check_possible, record

    check_target(html)
    check_possible()
    chosen, place = evaluate_data.towers(model, modalities, data)
    with console.progress("measuring", total=repeats * len(chosen), unit="processes", show=progress) as advance:
        records = [
            record(model, name, threads=threads, streams=streams, data=place, repeats=repeats, on_done=advance)
            for name in chosen
        ]
    finish(records, as_json=as_json, html=html)
