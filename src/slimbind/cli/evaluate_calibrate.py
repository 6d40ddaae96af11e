"""``slimbind eval calibrate``: what a score means, so that a cut-off is the same for every pair of modalities."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, evaluate_data, options
from slimbind.cli.evaluate_output import Html, Seed, check_target, finish
from slimbind.errors import UsageError

if TYPE_CHECKING:
    from slimbind.scores import Scores


def calibrate(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Pairs or classes: a table, a folder, ... (see docs/evaluation.md).")
    ],
    other: evaluate_data.Other = None,
    model: options.Model = "mini",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Keep it in this file, for `slimbind search --scores FILE`."
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Keep it in the model's folder.")] = False,
    columns: evaluate_data.Columns = "",
    root: evaluate_data.Root = None,
    modalities: evaluate_data.BothSides = "",
    templates: Annotated[
        list[str] | None,
        typer.Option(
            "--template", "-t", help="Of classes: a set of sentences, or one with {} for the class. Repeat it."
        ),
    ] = None,
    kind: evaluate_data.Kind = "auto",
    split: evaluate_data.Split = None,
    samples: evaluate_data.Samples = None,
    seed: Seed = 0,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    progress: options.Progress = None,
    as_json: options.Json = False,
    html: Html = None,
) -> None:
    """Learn from pairs what the cosine of two modalities means: with what probability do two items belong together?

    The curve is fitted on half of the pairs and measured on the other half: before and after. The probability is that
    of a pair which was as likely to match as not, so that a cut-off means the same for every pair of modalities.

    slimbind eval calibrate captions.csv --model model/ --write
    """
    import slimbind
    from slimbind.artifact import Artifact
    from slimbind.evaluate.calibration import calibrate as evaluate
    from slimbind.evaluate.calibration import store

    check_target(html)
    if output is not None:
        _check_output(output)
    if write:
        _check_folder(model)
    opened = evaluate_data.opened_pairs(
        data, other, kind=kind, modalities=modalities, split=split, columns=columns, root=root
    )
    with slimbind.load(model, threads=threads, device=device) as loaded:
        found = evaluate(
            loaded,
            opened,
            name=model,
            templates=templates or (),
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress=partial(console.progress, show=progress),
        )
    if output is not None:
        _kept(output).adding(found.curve).write(output)
        console.say(f"written: {output}")
    if write:
        store(Artifact.open(model), found.curve)
        console.say(f"written: {Path(model) / 'manifest.json'}")
    if output is None and not write:
        console.say("kept nowhere: --write keeps it in the model's folder, --output FILE in a file")
    finish([found.record], as_json=as_json, html=html)


def _check_output(path: Path) -> None:
    """Refuse a file that could not be written, or that holds something else, before any work is done."""
    if path.is_dir():
        raise UsageError(
            f"--output {path} is a folder", hint="name a file, or keep it in a model's folder with --write"
        )
    check_target(path, option="--output")
    _kept(path)


def _kept(path: Path) -> Scores:
    from slimbind.scores import Scores

    return Scores.read(path) if path.exists() else Scores()


def _check_folder(model: str) -> None:
    """Refuse to write into what is not the user's own: a model that comes with slimbind, or a cache."""
    from slimbind.hub.known import find

    if find(model) is not None or not os.path.isdir(model):
        raise UsageError(
            f"--write: {model} is no folder of yours", hint="keep it in a file instead: --output scores.json"
        )
    if not os.access(Path(model, "manifest.json"), os.W_OK) or not os.access(model, os.W_OK):
        raise UsageError(f"--write: {model} cannot be written", hint="keep it in a file instead: --output scores.json")
