"""``slimbind info``: what is inside a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, options

if TYPE_CHECKING:
    from slimbind.artifact import Artifact, Fidelity
    from slimbind.scores import Curve

_CUTS = (0.5, 0.9)


def info(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", envvar="SLIMBIND_MODEL", help="A model's name, or its folder.")
    ] = "mini",
    as_json: options.Json = False,
) -> None:
    """Show a model's towers: engine, precision, size, parameters, preprocessing, fidelity and licence.

    Also how each would use this machine's cores, and for which pairs of modalities it is known what a score means.
    Reads the manifest only; no tower is opened.
    """
    from slimbind.artifact import Artifact
    from slimbind.hub import resolve

    artifact = Artifact.open(resolve(model, modalities=()))
    if as_json:
        _print_json(artifact)
    else:
        _print_text(artifact)


def _print_json(artifact: Artifact) -> None:
    import json

    from slimbind.runtime.layout import of_tower
    from slimbind.runtime.threads import resolve_threads

    cores = resolve_threads()
    told = artifact.manifest.model_dump(mode="json")
    told["folder"] = str(artifact.folder)
    for name in artifact.modalities:
        entry = artifact.tower(name)
        layout = of_tower(entry, name, cores)
        told["towers"][name] |= {
            "encoder_id": entry.encoder_id,
            "bytes": entry.bytes,
            "layout": {"streams": layout.streams, "threads": layout.threads, "why": layout.why},
        }
    for curve, own in zip(artifact.manifest.scores.curves, told["scores"]["curves"], strict=True):
        own |= {"usable": _is_usable(curve, artifact), "reached_at": {f"{cut:g}": curve.cosine(cut) for cut in _CUTS}}
    typer.echo(json.dumps(told, indent=1))


def _print_text(artifact: Artifact) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from slimbind.runtime.layout import of_tower
    from slimbind.runtime.threads import resolve_threads

    cores = resolve_threads()
    out = Console(highlight=False, soft_wrap=True)
    manifest = artifact.manifest
    facts = {
        "model": manifest.model.id,
        "family": manifest.model.family,
        "folder": str(artifact.folder),
        "license": manifest.model.license,
        "source": manifest.model.source,
        "attribution": manifest.model.attribution,
        "dimensions": str(manifest.embedding_dim),
        "made by": manifest.created_by,
    }
    for name, value in facts.items():
        if value:
            out.print(Text(f"{name:<12}{console.printable(value)}"))
    table = Table(box=None, pad_edge=False)
    for heading in ("modality", "engine", "scheme", "size", "parameters", "encoder id"):
        table.add_column(heading, justify="right" if heading in ("size", "parameters") else "left", no_wrap=True)
    for name in artifact.modalities:
        entry = artifact.tower(name)
        size, count = f"{entry.bytes / 1e6:.1f} MB", f"{entry.parameters:,}"
        table.add_row(name, entry.engine, entry.scheme, size, count, entry.encoder_id)
    out.print()
    out.print(table)
    for name in artifact.modalities:
        entry = artifact.tower(name)
        settings = ", ".join(f"{key} {value}" for key, value in _flat(entry.preprocess.model_dump(mode="json")))
        out.print()
        out.print(Text(f"{name}: {settings}"))
        out.print(Text(f"{name}: on {cores} core{'s' * (cores > 1)}: {of_tower(entry, name, cores)}"))
        if entry.fidelity is not None:
            out.print(Text(f"{name}: {_fidelity(entry.fidelity)}"))
    out.print()
    for curve in manifest.scores.curves:
        out.print(Text(console.printable(_meaning(curve, artifact))))
    if not manifest.scores.curves:
        out.print(Text("scores: nobody has fitted what they mean; `slimbind eval calibrate PAIRS --write` does"))


def _is_usable(curve: Curve, artifact: Artifact) -> bool:
    """Whether a curve was fitted with the encoders that the artifact has."""
    there = {name: artifact.tower(name).encoder_id for name in artifact.modalities}
    return tuple(there.get(name) for name in curve.modalities) == curve.encoders


def _meaning(curve: Curve, artifact: Artifact) -> str:
    """One line on what scores of two modalities mean, and what that was learned from."""
    names = " and ".join(curve.modalities)
    line = f"scores of {names}: fitted on {curve.pairs} pairs (data: {curve.data})"
    if curve.fitted:
        line += f", {curve.fitted}"
    if not _is_usable(curve, artifact):
        return f"{line}; with other encoders than these, and so not used: fit it again"
    if curve.measured is not None:
        told = curve.measured
        line += f"; Brier score {told.brier_before:.3f} before and {told.brier_after:.3f} after on {told.pairs} others"
    reached = ", ".join(f"{cut:g} at cosine {curve.cosine(cut):.3f}" for cut in _CUTS)
    return f"{line}; probability {reached}"


def _fidelity(told: Fidelity) -> str:
    """One line on what a tower lost."""
    line = f"cosine to fp32 {told.cosine_mean:.5f} mean, {told.cosine_min:.5f} least"
    if told.centred_mean is not None and told.centred_min is not None:
        line += f"; centred {told.centred_mean:.5f} mean, {told.centred_min:.5f} least"
    return f"{line}; over {told.samples} inputs ({told.data})"


def _flat(values: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested settings as ``video.clips``; lists in short form."""
    found: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            found.append((prefix + key, "/".join(f"{number:.4g}" for number in value)))
        elif value is not None:
            found.append((prefix + key, value))
    return found
