"""``slimbind fidelity``: what a smaller model lost against its reference, and what it gained."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimbind.cli import console, options
from slimbind.cli.evaluate_output import Html, Seed, check_target

if TYPE_CHECKING:
    from slimbind.evaluate.compare import Compared

_MIB = 2**20


def fidelity(
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="What to be faithful to: a folder of `slimbind split`, or any model.")
    ],
    candidate: Annotated[str, typer.Argument(metavar="CAND", help="The model in question, made from the same one.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            envvar="SLIMBIND_DATA",
            help="A folder of files, a .txt of sentences or a .npz of inputs (default: what comes with slimbind).",
        ),
    ] = None,
    modalities: options.Modalities = "",
    samples: Annotated[int, typer.Option(min=1, help="Most items of a modality.")] = 32,
    least: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Exit with code 3 where the least cosine lies below this.")
    ] = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Time both as well.")] = True,
    threads: options.Threads = None,
    device: Annotated[
        str, typer.Option(help="Where the candidate runs: cpu, or a split model also on cuda (see docs/gpu.md).")
    ] = "cpu",
    seed: Seed = 0,
    progress: options.Progress = None,
    as_json: options.Json = False,
    html: Html = None,
) -> None:
    """Compare two artifacts of one model: the same items through both, tower by tower.

    cosine: 1 where both say the same; the mean and the worst of the items. centred: the same after the reference's mean
    embedding was subtracted from both, which is stricter. size: of the candidate, and how many times as small. speed:
    how many times as fast the candidate is, one item at a time, both timed in turns.

    slimbind fidelity split/ int8/ --data photos/
    """
    from slimbind.errors import DriftError
    from slimbind.evaluate.compare import compare
    from slimbind.evaluate.embedding import Steps

    check_target(html)
    if data is None:
        console.say("no --data: comparing on what comes with slimbind (depth, thermal and imu: made up)")
    rows: list[Compared] = []
    with Steps(partial(console.progress, unit="views", show=progress)) as steps:

        def begin(modality: str, views: int) -> None:
            console.say(f"comparing {modality}")
            steps.begin(f"embedding {modality}", views)

        for row in compare(
            reference,
            candidate,
            data=data,
            modalities=options.modality_list(modalities),
            samples=samples,
            threads=threads,
            device=device,
            timed=time,
            seed=seed,
            on_tower=begin,
            on_done=steps.advance,
        ):
            steps.end()
            rows.append(row)
            for name, reason in row.failed:
                console.say(f"failed: {name}: {reason}")
            for note in row.notes:
                console.say(f"{row.modality}: {note}")
    if html is not None:
        from slimbind.evaluate.report import write_html

        write_html(html, [row.record(reference, candidate) for row in rows], title=f"Fidelity of {candidate}")
        console.say(f"written: {html}")
    if as_json:
        told = {"reference": reference, "candidate": candidate, "device": device}
        typer.echo(json.dumps(told | {"towers": {row.modality: _record(row) for row in rows}}, indent=1))
    else:
        _print_table(rows)
    below = [row for row in rows if least is not None and not row.fidelity.cosine_min >= least]
    if below:
        worst = ", ".join(f"{row.modality} {row.fidelity.cosine_min:.5f}" for row in below)
        raise DriftError(f"below the least cosine asked for ({least:g}): {worst}")
    if any(row.failed for row in rows):
        raise typer.Exit(4)


def _record(row: Compared) -> dict[str, Any]:
    pace = row.pace
    return {
        "reference": {"engine": row.reference.engine, "scheme": row.reference.scheme, "bytes": row.reference.bytes},
        "candidate": {"engine": row.candidate.engine, "scheme": row.candidate.scheme, "bytes": row.candidate.bytes},
        "size_ratio": row.size_ratio,
        "fidelity": row.fidelity.model_dump(mode="json"),
        "intervals": {name: [found.low, found.high] for name, found in row.intervals.items()},
        "time": None
        if pace is None
        else {
            "ratio": pace.ratio,
            "quartiles": [pace.low, pace.high],
            "reference_seconds": pace.reference,
            "candidate_seconds": pace.candidate,
            "rounds": pace.rounds,
        },
        "failed": [{"item": name, "reason": reason} for name, reason in row.failed],
        "notes": list(row.notes),
    }


def _print_table(rows: list[Compared]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1))  # just fits a terminal of 80 columns
    columns = ("modality", "scheme", "cosine", "min", "centred", "min", "MiB", "size", "speed")
    for position, heading in enumerate(columns):
        table.add_column(heading, justify="left" if position < 2 else "right", no_wrap=True)
    for row in rows:
        told = row.fidelity
        table.add_row(
            row.modality,
            row.candidate.scheme,
            *(_cosine(value) for value in (told.cosine_mean, told.cosine_min, told.centred_mean, told.centred_min)),
            f"{row.candidate.bytes / _MIB:.2f}",
            f"{row.size_ratio:.2f}x",
            "-" if row.pace is None else f"{row.pace.ratio:.2f}x",
        )
    out.print(table)
    for row in rows:
        line = f"{row.modality}: {row.fidelity.samples} items, {row.fidelity.data}; {row.candidate.engine}"
        out.print(Text(console.printable(line)))


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"
