"""``slimbind eval zero-shot``: classes by their names, without training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, evaluate_data, options
from slimbind.cli.evaluate_output import Html, Seed, check_target, finish


def zero_shot(
    data: evaluate_data.Data,
    model: options.Model = "mini",
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes", help="Names of the classes: one a line in their order, or class, tab, name on each line."
        ),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            "-t",
            help='imagenet7 | imagenet80 | photo | sound | audio | none, or a sentence: "a photo of a {}". Repeat it '
            "to take the mean of several. Default: one sentence that suits the modality.",
        ),
    ] = None,
    codecs: evaluate_data.Codecs = None,
    fitted: evaluate_data.Fitted = True,
    kind: evaluate_data.Kind = "auto",
    modality: options.Modality = "auto",
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
    """Classify data by the names of its classes, and count how often that is right.

    DATA is a folder with a subfolder of files for each class, or another layout that has classes. Shown are top-1 and
    top-5 accuracy and the mean recall of the classes, each with its 95 % interval; the page and the JSON also have the
    confusion matrix. With --codec the same is done on compressed vectors, beside the whole ones.

    slimbind eval zero-shot photos/ -t imagenet7
    """
    import slimbind
    from slimbind.bulk.prompts import PROMPTS
    from slimbind.evaluate import templates as known
    from slimbind.evaluate.embedding import check_classes
    from slimbind.evaluate.zero_shot import read_names, zero_shot_through

    check_target(html)
    opened = evaluate_data.opened([data], kind=kind, modalities=[options.only_modality(modality)], split=split)
    names = None if classes is None else read_names(classes, check_classes(opened))
    known.choose(templates or (), opened.modalities[0])  # before the model is opened
    with slimbind.load(model, threads=threads, device=device) as loaded:
        records = zero_shot_through(
            codecs or (),
            loaded,
            opened,
            name=model,
            names=names,
            templates=templates or (),
            prompts=PROMPTS if fitted else (),
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress=partial(console.progress, show=progress),
        )
    finish(records, as_json=as_json, html=html)
