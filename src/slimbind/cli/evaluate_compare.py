"""``slimbind eval compare``: several artifacts of one model side by side, on one page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, evaluate_data, options
from slimbind.cli.evaluate_output import Html, Seed, check_target, finish


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="REF MODEL...", help="Artifacts of one model, the reference first.")
    ],
    mix: Annotated[
        bool, typer.Option("--mix", help="Also the reference with each single tower of each of the others.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="SLIMBIND_DATA", help="Items for fidelity, speed, memory (default: shipped)."),
    ] = None,
    zero_shot: Annotated[
        Path | None, typer.Option("--zero-shot", metavar="DATA", help="Classify this by the names of its classes.")
    ] = None,
    templates: Annotated[list[str] | None, typer.Option("--template", "-t", help="For --zero-shot.")] = None,
    retrieval: Annotated[
        list[Path] | None,
        typer.Option("--retrieval", metavar="DATA", help="Search these pairs; twice for two folders."),
    ] = None,
    codecs: Annotated[list[str] | None, typer.Option("--codec", "-c", help="For --retrieval; repeat it.")] = None,
    linear_probe: Annotated[
        list[Path] | None,
        typer.Option("--linear-probe", metavar="DATA", help="Fit a classifier on this; twice: train and test."),
    ] = None,
    split: evaluate_data.Split = None,
    train_split: Annotated[str | None, typer.Option(help="Which part --linear-probe learns from.")] = None,
    fidelity: Annotated[bool, typer.Option("--fidelity/--no-fidelity", help="Cosines to the reference.")] = True,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time each tower.")] = True,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure each tower's memory (Linux).")] = True,
    similarity: Annotated[
        bool, typer.Option("--similarity/--no-similarity", help="Heat maps of shipped photos and sentences.")
    ] = True,
    modalities: options.Modalities = "",
    samples: Annotated[int, typer.Option(min=1, help="Most items of --data for each modality.")] = 32,
    most: Annotated[int | None, typer.Option("--items", min=1, help="Most items of each data set.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="For the speed of each tower and batch size.")] = 2.0,
    repeats: Annotated[int, typer.Option(min=1, help="Processes in which memory is measured.")] = 3,
    seed: Seed = 0,
    threads: options.Threads = None,
    progress: options.Progress = None,
    as_json: options.Json = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all numbers as a Markdown table.")
    ] = None,
    html: Html = None,
) -> None:
    """Compare several artifacts of one model: fidelity to the first, size, memory, speed, and their worth on data.

    With --mix there is a column for each single tower of the others in the place of the reference's, which tells what
    making the image tower smaller costs, or the text tower, or both.

    slimbind eval compare split/ int8/ int4/ --zero-shot photos/ --mix --html page.html --markdown table.md
    """
    from slimbind.errors import UsageError
    from slimbind.evaluate.linear_probe import need_scikit_learn
    from slimbind.evaluate.report import markdown as table
    from slimbind.evaluate.report.page import write_whole
    from slimbind.evaluate.side_by_side import Settings, Tasks, side_by_side

    check_target(html)
    check_target(markdown, option="--markdown")
    for given, option, needs in ((templates, "--template", zero_shot), (codecs, "--codec", retrieval)):
        if given and needs is None:
            raise UsageError(f"{option} is given, but nothing that it is for", hint=f"see `{option}` in --help")
    if linear_probe:
        need_scikit_learn()
        if len(linear_probe) > 2:
            raise UsageError("--linear-probe is given more than twice", hint="once to train and once to test")
    opened = evaluate_data.opened
    test = linear_probe[-1] if linear_probe and (len(linear_probe) > 1 or split is not None) else None
    tasks = Tasks(
        fidelity=fidelity,
        speed=speed,
        memory=memory,
        similarity=similarity,
        zero_shot=None if zero_shot is None else opened([zero_shot], split=split),
        templates=templates or (),
        retrieval=opened(retrieval, split=split) if retrieval else None,
        codecs=codecs or (),
        train=opened([linear_probe[0]], split=train_split) if linear_probe else None,
        test=None if test is None else opened([test], split=split),
    )
    settings = Settings(
        modalities=options.modality_list(modalities),
        data=None if data is None else data.expanduser(),
        samples=samples,
        most=most,
        threads=threads,
        seconds=seconds,
        repeats=repeats,
        seed=seed,
    )
    records = side_by_side(
        sources,
        tasks=tasks,
        settings=settings,
        mix=mix,
        progress=partial(console.progress, show=progress),
        note=lambda text: console.say(f"note: {text}"),
    )
    if markdown is not None:
        write_whole(markdown, table(records).encode("utf-8"))
        console.say(f"written: {markdown}")
    finish(records, as_json=as_json, html=html, title="Models side by side")
