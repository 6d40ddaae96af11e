"""``slimbind split``: a checkpoint taken apart by modality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimbind.cli import console, options

if TYPE_CHECKING:
    from slimbind.artifact import ModelInfo, TowerEntry
    from slimbind.hub import FoundCheckpoint
    from slimbind.towers.split import Plan

# Sizes after splitting, from the paper that this project reproduces; its tables say MB where the numbers are MiB.
PAPER_MIB = {
    "vision": 2414.05,
    "text": 1350.55,
    "audio": 328.96,
    "depth": 83.44,
    "thermal": 328.87,
    "imu": 74.77,
}
PAPER_WHOLE_MIB = 4580.64


def split(
    checkpoint: Annotated[
        str, typer.Argument(help="A file, a folder, hf://ORG/REPO@REVISION, https://..., or a known model's name.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    modalities: options.Modalities = "",
    config: Annotated[
        Path | None, typer.Option(help="JSON with what the weights do not tell, such as the number of heads.")
    ] = None,
    license: Annotated[str, typer.Option(help="The licence of the weights, where it is not known.")] = "",  # noqa: A002
    sha256: Annotated[str, typer.Option(help="What the file of weights must hash to.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that is there.")] = False,
    as_json: options.Json = False,
    progress: options.Progress = None,
) -> None:
    """Take a checkpoint apart: one safetensors file per modality, and a manifest.

    PyTorch files are read without running what is in them, a tensor at a time. The folder can be opened as it is where
    PyTorch is installed, and `slimbind export` makes it fast.
    """
    from slimbind import hub
    from slimbind.artifact import ModelInfo, check_destination
    from slimbind.errors import MissingExtraError
    from slimbind.hub.sources import read_json

    try:
        from slimbind.towers import split as towers_split
        from slimbind.towers.checkpoint import open_weights
    except ImportError as error:
        raise MissingExtraError("PyTorch", extra="build") from error

    wanted = options.modality_list(modalities)
    check_destination(output, overwrite=overwrite)  # before anything is fetched
    given = read_json(config) if config is not None else None
    found = _find(hub, checkpoint, sha256, progress)
    with open_weights(found.files) as weights:
        for note in weights.notes:
            console.say(f"note: {note}")
        plan = towers_split.plan(
            weights, modalities=wanted, config=given or found.config, preparation=found.preparation
        )
        model = ModelInfo(
            id=found.id,
            family=plan.family,
            license=license or found.license or towers_split.LICENSES.get(plan.family, towers_split.UNKNOWN_LICENSE),
            source=found.source,
            attribution=towers_split.ATTRIBUTIONS.get(plan.family, ""),
        )
        with console.progress("splitting", total=plan.bytes, unit="bytes", show=progress) as advance:
            towers = towers_split.run(plan, output, model=model, overwrite=overwrite, on_bytes=advance)
    console.say(_about_license(model))
    if as_json:
        typer.echo(json.dumps(_report(output, model, towers), indent=1))
    else:
        _print_table(output, towers, plan)


def _find(hub: Any, checkpoint: str, sha256: str, show: bool | None) -> FoundCheckpoint:  # noqa: ANN401  (the module, imported lazily)
    found: FoundCheckpoint
    if not checkpoint.startswith(("https://", "http://")) and checkpoint not in {m.name for m in hub.catalog()}:
        found = hub.checkpoint(checkpoint, sha256=sha256)
        return found
    with console.progress("fetching", unit="bytes", show=show) as advance:
        seen = 0

        def on_progress(done: int, total: int | None) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        found = hub.checkpoint(checkpoint, sha256=sha256, progress=on_progress)
    return found


def _about_license(model: ModelInfo) -> str:
    if model.license == "unknown":
        return (
            f"licence: nothing states the licence of {model.id}'s weights; find out before you use them, "
            "and record it with --license"
        )
    terms = " (not for commercial use)" if "-NC" in model.license else ""
    return f"licence: the weights of {model.id} are under {model.license}{terms}; the manifest says so too"


def _report(output: Path, model: ModelInfo, towers: dict[str, TowerEntry]) -> dict[str, Any]:
    return {
        "folder": str(output),
        "model": model.model_dump(),
        "towers": {
            modality: {
                "parameters": entry.parameters,
                "bytes": entry.bytes,
                "scheme": entry.scheme,
                "files": [file.model_dump() for file in entry.files],
            }
            for modality, entry in towers.items()
        },
    }


def _print_table(output: Path, towers: dict[str, TowerEntry], plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="", title_justify="left", pad_edge=False)
    table.add_column("modality")
    for title in ("parameters", "type", "MiB", *(("paper's MiB",) if plan.is_huge else ())):
        table.add_column(title, justify="right")
    sizes = {modality: _mib(entry) for modality, entry in towers.items()}
    for modality, entry in towers.items():
        row = [modality, f"{entry.parameters:,}", entry.scheme, f"{sizes[modality]:.2f}"]
        table.add_row(*row, *((f"{PAPER_MIB[modality]:.2f}",) if plan.is_huge else ()))
    if len(towers) > 1:
        total = [f"{sum(entry.parameters for entry in towers.values()):,}", "", f"{sum(sizes.values()):.2f}"]
        paper = f"{PAPER_WHOLE_MIB:.2f}" if len(towers) == len(PAPER_MIB) else ""
        table.add_row("all", *total, *((paper,) if plan.is_huge else ()))
    Console(highlight=False).print(table)
    typer.echo(f"written to {output}")


def _mib(entry: TowerEntry) -> float:
    """Size of the weights alone: a tokenizer beside them is no part of the paper's numbers."""
    return sum(file.bytes for file in entry.files if file.path.endswith(".safetensors")) / 2**20
