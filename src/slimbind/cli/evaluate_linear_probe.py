"""``slimbind eval linear-probe``: what a linear classifier makes of frozen embeddings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, evaluate_data, options
from slimbind.cli.evaluate_output import Html, Seed, check_target, finish


def linear_probe(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="Data with classes, to learn from.")],
    test: Annotated[
        Path | None,
        typer.Argument(metavar="[TEST]", help="Data to test with (default: a part of TRAIN).", show_default=False),
    ] = None,
    model: options.Model = "mini",
    kind: evaluate_data.Kind = "auto",
    modality: options.Modality = "auto",
    split: Annotated[str | None, typer.Option("--split", help="Which part of TRAIN to learn from.")] = None,
    test_split: Annotated[
        str | None, typer.Option("--test-split", help="Which part to test with: of TEST, or else of TRAIN.")
    ] = None,
    validation_share: Annotated[
        float, typer.Option("--validation", min=0, max=1, help="Part of the training data that C is chosen by.")
    ] = 0.2,
    test_share: Annotated[
        float, typer.Option("--held-out", min=0, max=1, help="Part of TRAIN to test with, where there is no TEST.")
    ] = 0.25,
    samples: evaluate_data.Samples = None,
    seed: Seed = 0,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    progress: options.Progress = None,
    as_json: options.Json = False,
    html: Html = None,
) -> None:
    """Fit a linear classifier on embeddings, and count how often it is right on data it has not seen.

    The regularisation C is chosen by a part of the training data; the test data are looked at once.

    slimbind eval linear-probe birds/train birds/test
    """
    import slimbind
    from slimbind.evaluate.linear_probe import linear_probe as evaluate
    from slimbind.evaluate.linear_probe import need_scikit_learn

    check_target(html)
    need_scikit_learn()
    kinds = [options.only_modality(modality)]
    learned = evaluate_data.opened([train], kind=kind, modalities=kinds, split=split)
    tried = None
    if test is not None or test_split is not None:
        tried = evaluate_data.opened([test or train], kind=kind, modalities=kinds, split=test_split)
    with slimbind.load(model, threads=threads, device=device) as loaded:
        record = evaluate(
            loaded,
            learned,
            tried,
            name=model,
            validation_share=validation_share,
            test_share=test_share,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress=partial(console.progress, show=progress),
        )
    finish([record], as_json=as_json, html=html)
