"""``slimbind eval speed``: how long an embedding takes, and how many there are in a second."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, evaluate_data, options
from slimbind.cli.evaluate_output import Html, Seed, check_target, finish
from slimbind.errors import UsageError

if TYPE_CHECKING:
    from slimbind.evaluate.embedding import Steps
    from slimbind.evaluate.record import Record

_COLUMNS = ("threads", "streams", "batch", "callers", "items_per_second")
_TIMES = ("p50_seconds", "p90_seconds", "p99_seconds")


def speed(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", envvar="SLIMBIND_MODEL", help="A model's name, or its folder.")
    ] = "mini",
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="SLIMBIND_DATA", help="A folder of files, or a .txt (default: what is shipped)."),
    ] = None,
    modalities: options.Modalities = "",
    threads: Annotated[
        str,
        typer.Option(
            envvar="SLIMBIND_THREADS",
            help="Numbers to try (default: 1,2,4, ... and the CPUs we may use).",
        ),
    ] = "",
    batch_sizes: Annotated[
        str, typer.Option(help="Items in each call, like 1,8 (default: 1, and the tower's usual batch).")
    ] = "",
    callers: Annotated[str, typer.Option(help="Threads that call at the same time.")] = "1,8",
    streams: Annotated[
        str, typer.Option(help="Forward passes side by side to try, like 1,2 (default: what suits the tower).")
    ] = "",
    samples: Annotated[int, typer.Option(min=1, help="Most items; callers go round them.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.01, help="For each setting.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="In so many parts, between which the others are measured.")] = 3,
    seed: Seed = 0,
    progress: options.Progress = None,
    as_json: options.Json = False,
    html: Html = None,
) -> None:
    """Time a model's towers, from the file or text to its vector: with more threads, larger batches, more callers.

    Shown are items per second of all callers together, and the seconds within which half, nine tenths and 99 % of the
    calls were done. streams: the forward passes side by side that were chosen for so many threads. cores: CPU seconds
    for each second. All settings take turns, so that a busy machine slows all of them.

    slimbind eval speed mini --modalities text --callers 1,4,16
    """
    from slimbind.evaluate import throughput
    from slimbind.evaluate.embedding import Steps

    check_target(html)
    chosen, place = evaluate_data.towers(model, modalities, data)
    plan = throughput.Plan(
        threads=_numbers(threads, "--threads"),
        batches=_numbers(batch_sizes, "--batch-sizes"),
        callers=_numbers(callers, "--callers") or throughput.CALLERS,
        streams=_numbers(streams, "--streams"),
        data=place,
        samples=samples,
        seconds=seconds,
        rounds=rounds,
        seed=seed,
    )
    records: list[Record] = []
    for name in chosen:
        with Steps(partial(console.progress, unit="settings", show=progress)) as steps:
            records.append(
                throughput.measure(
                    model,
                    name,
                    plan,
                    on_begin=partial(_begin, steps),
                    on_done=steps.advance,
                )
            )
    if not as_json:
        _print(records)
    finish(records, as_json=as_json, html=html)


def _begin(steps: Steps, modality: str, total: int) -> None:
    steps.begin(f"timing {modality}", total)


def _numbers(text: str, option: str) -> list[int]:
    """Whole numbers separated by commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} is {text!r}", hint="give whole numbers of 1 or more, like 1,2,4")
    return [int(part) for part in parts]


def _print(records: list[Record]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from slimbind.evaluate.report.numbers import shown

    out = Console(highlight=False, soft_wrap=True)
    for record in records:
        out.print(
            Text(console.printable(f"{record.title}: {record.settings['items']} items, {record.settings['data']}"))
        )
        out.print(Text(console.printable(str(record.settings["layout"]))))
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        for heading in ("threads", "streams", "batch", "callers", "items/s", "p50", "p90", "p99", "cores"):
            table.add_column(heading, justify="right", no_wrap=True)
        rows = record.details["rows"]
        assert isinstance(rows, list)
        for row in rows:
            assert isinstance(row, dict)
            cells = [f"{row[name]:.4g}" for name in _COLUMNS]
            table.add_row(*cells, *(shown(name, row[name]) for name in _TIMES), f"{row['cores_used']:.2f}")
        out.print(table)
