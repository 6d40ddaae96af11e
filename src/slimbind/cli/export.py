"""``slimbind export``: a split model made ready for an inference engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, options
from slimbind.cli.scores import say_dropped

if TYPE_CHECKING:
    from slimbind.artifact import TowerEntry


def export(
    folder: Annotated[Path, typer.Argument(help="A folder written by `slimbind split`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The artifact to write.")],
    engine: Annotated[str, typer.Option(envvar="SLIMBIND_ENGINE", help="openvino | onnx")] = "openvino",
    dtype: Annotated[
        str, typer.Option(help="How weights are stored: f32 | f16 | bf16 (bf16 with openvino only).")
    ] = "f32",
    modalities: options.Modalities = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that is there.")] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Write the artifact that the run plane opens, one tower at a time, and compare each with its reference.

    A tower that says something else than the PyTorch one (exit code 3) is refused, and nothing is written.
    """
    from slimbind.errors import MissingExtraError

    try:
        from slimbind.export import job
    except ImportError as error:
        raise MissingExtraError("PyTorch", extra="build") from error

    done: dict[str, TowerEntry] = {}

    def report(modality: str, entry: TowerEntry) -> None:
        done[modality] = entry
        assert entry.fidelity is not None
        drift = max(0.0, 1.0 - entry.fidelity.cosine_min)
        console.say(f"{modality}: {entry.bytes / 2**20:.2f} MiB, {entry.scheme}, off by at most {drift:.1e}")

    artifact = job.export(
        folder,
        output,
        engine=engine,
        dtype=dtype,
        modalities=options.modality_list(modalities),
        overwrite=overwrite,
        threads=threads,
        report=report,
    )
    say_dropped(folder, artifact)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "folder": str(artifact.folder),
                    "engine": engine,
                    "towers": {name: entry.model_dump(mode="json") for name, entry in done.items()},
                },
                indent=1,
            )
        )
    else:
        typer.echo(str(artifact.folder))
