"""``slimbind eval similarity``: what a model finds alike, as heat maps, beside its reference."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, options
from slimbind.cli.evaluate_output import Html, Seed, check_target, finish

_MOST = 500


def similarity(
    rows: Annotated[
        Path | None,
        typer.Argument(metavar="[ROWS]", help="A folder of files or a .txt of sentences (default: shipped photos)."),
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Argument(metavar="[COLUMNS]", help="The same (default: --text, else what the shipped photos show)."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="A sentence as a column; repeat it.")] = None,
    model: options.Model = "mini",
    reference: Annotated[
        str | None, typer.Option("--reference", "-r", help="What the model was made from: drawn beside it.")
    ] = None,
    rows_modality: Annotated[str, typer.Option(help="Of ROWS, where it holds several.")] = "auto",
    columns_modality: Annotated[str, typer.Option(help="Of COLUMNS, where it holds several.")] = "auto",
    items: Annotated[int, typer.Option(min=1, max=_MOST, help="Most rows and columns, evenly spread.")] = 24,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the heat maps as a picture.")] = None,
    seed: Seed = 0,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    progress: options.Progress = None,
    as_json: options.Json = False,
    html: Html = None,
) -> None:
    """Draw how alike a model finds two sets of items, beside its reference, with the difference.

    Rows and columns may be of any modality. With a reference the numbers say how far the two are apart: the mean
    absolute difference; the mean shift, which changes no order; what is left without it; and in how many rows the best
    column is the same.

    slimbind eval similarity photos/ -t "a dog" -t "a cat" -m int8/ -r split/ --png map.png
    """
    import slimbind
    from slimbind.errors import UsageError
    from slimbind.evaluate.report.picture import check_png, write_png
    from slimbind.evaluate.similarity import Side, of_path, shipped
    from slimbind.evaluate.similarity import similarity as evaluate

    check_target(html)
    if png is not None:
        check_target(png, option="--png")
        check_png()
    if columns is not None and text:
        raise UsageError("both COLUMNS and --text are given", hint="leave one out")
    if rows is not None and columns is None and not text:
        raise UsageError("ROWS are given, but nothing to compare them with", hint="name COLUMNS, or sentences with -t")
    across = options.only_modality(rows_modality), options.only_modality(columns_modality)
    with ExitStack() as stack:
        loaded = stack.enter_context(slimbind.load(model, threads=threads, device=device))
        other = None if reference is None else stack.enter_context(slimbind.load(reference, threads=threads))
        if rows is None:
            console.say("no ROWS: taking the photographs that come with slimbind")
            first, second = shipped(items)
        else:
            first = second = of_path(rows, loaded.modalities, modality=across[0], most=items)
        if text:
            second = Side("text", text, text)
        elif columns is not None:
            second = of_path(columns, loaded.modalities, modality=across[1], most=items)
        told = ["shipped photos" if rows is None else rows.name or str(rows)]
        told.append("sentences" if columns is None else columns.name or str(columns))
        record = evaluate(
            loaded,
            first,
            second,
            reference=other,
            name=model,
            reference_name=reference or "",
            title=f"{told[0]} and {told[1]}",
            seed=seed,
            progress=partial(console.progress, show=progress),
        )
    if png is not None:
        write_png(png, record)
        console.say(f"written: {png}")
    if not (record.measures or as_json or html or png):
        console.say(
            "nothing is drawn: --png or --html FILE draws the heat map, --reference MODEL tells numbers beside it"
        )
    finish([record], as_json=as_json, html=html)
