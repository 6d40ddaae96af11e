"""``slimbind quantize``: a split model made small and fast, and measured against itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, options
from slimbind.cli.scores import say_dropped

if TYPE_CHECKING:
    from slimbind.artifact import TowerEntry
    from slimbind.quantize.report import Progress
    from slimbind.quantize.schemes import Scheme


def quantize(
    folder: Annotated[Path, typer.Argument(help="A folder written by `slimbind split`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The artifact to write.")],
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            "-s",
            help="int8-dynamic | int8-static | int8-weight | int4-weight | f16 | bf16 | mixed | "
            "eager-dynamic | eager-static. [default: int8-dynamic; mixed with --recipe]",
            show_default=False,
        ),
    ] = "",
    engine: Annotated[
        str, typer.Option(envvar="SLIMBIND_ENGINE", help="openvino | onnx (eager-*: torch). [default: openvino]")
    ] = "",
    modalities: options.Modalities = "",
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            metavar="[MODALITY=]PATH",
            help="Data to calibrate and compare with: a folder of files, a .npz of arrays, a .txt of sentences. May be "
            "given again. Where nothing is given, the samples that come with slimbind are used.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Most items to calibrate with, of each modality. [default: 32, texts 128]")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON that says which layers get which scheme.")] = None,
    max_size: Annotated[
        str, typer.Option(help="mixed: the most that each tower (not all together) may take, for example 300MB.")
    ] = "",
    min_fidelity: Annotated[
        float | None, typer.Option(help="mixed: the least cosine that the worst item may have.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the scheme.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep towers that say something else than their reference.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that is there.")] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
    progress: options.Progress = None,
) -> None:
    """Round the weights of a split model, write it for an engine, and measure what it says against the original.

    Items that calibration does not see are embedded by both; the cosines are written into the artifact, and a tower
    below the scheme's threshold is refused (exit code 3). A job that was stopped goes on where it was when it is run
    again.

    slimbind quantize imagebind/ --scheme int8-dynamic --calibrate photos/ -o imagebind-int8/
    """
    from slimbind.errors import MissingExtraError

    try:
        import_module("torch")  # by name: nothing here needs it but what is imported next
    except ImportError as error:
        raise MissingExtraError("PyTorch", extra="build") from error
    from slimbind.quantize import job

    config = _config(scheme, recipe, max_size, min_fidelity, setting or [])
    done: dict[str, TowerEntry] = {}

    def report(modality: str, entry: TowerEntry) -> None:
        done[modality] = entry
        assert entry.fidelity is not None
        told = entry.fidelity
        console.say(
            f"{modality}: {entry.bytes / 2**20:.2f} MiB ({entry.bytes / (told.reference_bytes or 1):.0%}), "
            f"cosine {told.cosine_mean:.5f} mean, {told.cosine_min:.5f} least of {told.samples}, "
            f"{told.time_ratio or 0:.1f} x as fast (one thread)"
        )

    with _stages(progress) as stages:
        artifact = job.quantize(
            folder,
            output,
            scheme=config,
            engine=engine or None,
            modalities=options.modality_list(modalities),
            calibrate=calibrate or (),
            samples=samples,
            force=force,
            overwrite=overwrite,
            threads=threads,
            report=report,
            note=lambda text: console.say(f"note: {text}"),
            progress=stages,
        )
    say_dropped(folder, artifact)
    if as_json:
        told = {
            "folder": str(artifact.folder),
            "scheme": config.name,
            "engine": next(iter(done.values())).engine,
            "towers": {
                name: entry.model_dump(mode="json") | {"bytes": entry.bytes, "encoder_id": entry.encoder_id}
                for name, entry in done.items()
            },
        }
        typer.echo(json.dumps(told, indent=1))
    else:
        typer.echo(str(artifact.folder))


def _config(name: str, recipe: Path | None, max_size: str, min_fidelity: float | None, settings: list[str]) -> Scheme:
    from slimbind.errors import UsageError
    from slimbind.quantize.recipe import Recipe
    from slimbind.quantize.schemes import scheme
    from slimbind.sizes import parse_bytes

    mixed = {
        "--recipe": recipe is not None,
        "--max-size": bool(max_size),
        "--min-fidelity": min_fidelity is not None,
    }
    given = [option for option, present in mixed.items() if present]
    name = name or ("mixed" if given else "int8-dynamic")
    values: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} is no NAME=VALUE", hint="for example --set smoothing=off")
        values[key.strip().replace("-", "_")] = value.strip()
    if name != "mixed":
        if given and scheme(name):
            raise UsageError(f"{given[0]} is of the scheme mixed, not of {name}", hint="give --scheme mixed")
        return scheme(name, values)
    if recipe is not None:
        values["recipe"] = Recipe.read(recipe).to_json()
    if max_size:
        values["max_size"] = str(parse_bytes(max_size))
    if min_fidelity is not None:
        values["min_fidelity"] = str(min_fidelity)
    return scheme(name, values)


@contextmanager
def _stages(show: bool | None) -> Iterator[Progress]:
    """A progress bar for each stage; the one before it goes when the next begins."""
    with ExitStack() as stack:

        def begin(stage: str, total: int) -> Callable[[int], None]:
            stack.close()
            advance = stack.enter_context(console.progress(stage, total=total, show=show))
            before = 0

            def tell(done: int) -> None:
                nonlocal before
                advance(done - before)
                before = done

            return tell

        yield begin
