"""``slimbind eval retrieval``: does each item find what belongs to it?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, evaluate_data, options
from slimbind.cli.evaluate_output import Html, Seed, check_target, finish


def retrieval(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A .csv, .tsv or .parquet of pairs, or a folder.")],
    other: evaluate_data.Other = None,
    model: options.Model = "mini",
    columns: evaluate_data.Columns = "",
    root: evaluate_data.Root = None,
    modalities: evaluate_data.BothSides = "",
    codecs: evaluate_data.Codecs = None,
    fitted: evaluate_data.Fitted = True,
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
    """Search one side of pairs with the other, both ways: how often is the partner among the first 1, 5 and 10?

    An item with several partners has found them when it has found one. The median rank is that of the best partner.
    With --codec the same is done on compressed vectors, beside the whole ones.

    slimbind eval retrieval captions.csv --codec sq8 --codec rabitq4
    """
    import slimbind
    from slimbind.bulk.prompts import PROMPTS
    from slimbind.evaluate.retrieval import retrieval as evaluate

    check_target(html)
    opened = evaluate_data.opened_pairs(
        data, other, kind=kind, modalities=modalities, split=split, columns=columns, root=root
    )
    with slimbind.load(model, threads=threads, device=device) as loaded:
        records = evaluate(
            loaded,
            opened,
            name=model,
            codecs=codecs or (),
            prompts=PROMPTS if fitted else (),
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress=partial(console.progress, show=progress),
        )
    finish(records, as_json=as_json, html=html)
