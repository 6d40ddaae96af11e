"""``slimbind collection``: look into a collection, check it, tidy it up, and carry it in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, options

Place = Annotated[
    Path | None,
    typer.Argument(
        metavar="[COLLECTION]", help="The folder (default: the one of `slimbind index`).", show_default=False
    ),
]
Where = Annotated[str, typer.Option("--where", help='Only items of which this is true: "year > 2020".')]

collection = typer.Typer(
    help="Look into a collection, check it, tidy it up, carry it in and out.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@collection.command()
def stats(place: Place = None, as_json: options.Json = False) -> None:
    """Say what is in a collection, how it is searched, and what it takes on disk."""
    from dataclasses import asdict

    from slimbind.collection import Collection

    with Collection.open(options.index_folder(place)) as shelf:
        told = asdict(shelf.stats())
    if as_json:
        _tell(**told)
        return
    for name, value in told.items():
        shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
        if name.endswith("_bytes"):
            name, shown = name.removesuffix("_bytes"), f"{value / 1e6:.1f} MB"
        if shown not in ("", None):
            typer.echo(console.printable(f"{name.replace('_', ' '):<15}{shown}"))


@collection.command()
def verify(
    place: Place = None,
    samples: Annotated[int, typer.Option(min=0, help="Searches to compare with exact ones.")] = 100,
    as_json: options.Json = False,
) -> None:
    """Check every item's checksum and vector, the code file, and how much of the exact answers searches find.

    The exit code is 1 where an item is damaged. A damaged code file is no loss: the next search makes it again.
    """
    from dataclasses import asdict

    from slimbind.collection import Collection

    with Collection.open(options.index_folder(place)) as shelf:
        report = shelf.verify(samples=samples)
    if as_json:
        _tell(ok=report.ok, **asdict(report))
    else:
        typer.echo(f"{report.items} items checked, {len(report.problems) or 'no'} problems")
        for problem in report.problems:
            typer.echo(console.printable(problem))
        if report.codes:
            typer.echo(console.printable(f"code file: {report.codes}; the next search makes it again"))
        if report.recall is not None:
            typer.echo(f"recall of the ten best, in {report.queries} searches: {report.recall:.3f}")
    if not report.ok:
        raise typer.Exit(1)


@collection.command()
def compact(
    place: Place = None,
    codec: Annotated[
        str | None,
        typer.Option("--codec", envvar="SLIMBIND_CODEC", help="auto, f32 (exact), sq8, ...: from now on."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Give back the space of what was removed, and bring the code file up to date."""
    from slimbind.collection import Collection

    with Collection.open(options.index_folder(place)) as shelf:
        freed = shelf.compact(codec=codec)
        told = shelf.stats()
    size = told.database_bytes + told.codes_bytes
    if as_json:
        _tell(folder=told.folder, items=told.items, bytes=size, freed_bytes=freed, method=told.method)
    else:
        freed_mb = f"{freed / 1e6:+.1f} MB given back"
        console.say(f"{told.folder}: {told.items} items, {size / 1e6:.1f} MB ({freed_mb}), {told.method}")


@collection.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new folder.")],
    place: Place = None,
    where: Where = "",
    as_json: options.Json = False,
) -> None:
    """Write vectors as .npy and all else as parquet, in clip-retrieval's layout; `import` reads it back.

    slimbind collection export vectors/ photos.slim
    """
    from slimbind.collection import Collection
    from slimbind.collection.exchange import export as write

    target = options.index_folder(target)
    with Collection.open(options.index_folder(place)) as shelf:
        count = write(shelf, target, where=where)
    if as_json:
        _tell(folder=str(target.absolute()), items=count)
    else:
        console.say(f"{count} items written to {target}")


@collection.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder with img_emb/*.npy and metadata/*.parquet.")
    ],
    place: Annotated[Path, typer.Argument(metavar="COLLECTION", help="Made where it is not there.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model that made the vectors, which `search` is to ask with."),
    ] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="The column that names the items.")] = None,
    codec: options.Codec = "auto",
    as_json: options.Json = False,
) -> None:
    """Take in vectors as .npy with metadata as parquet, in clip-retrieval's layout.

    An item is named by the first column there is of id, image_path, key and url; items of that name are replaced.

    slimbind collection import vectors/ photos.slim
    """
    from slimbind.collection import Collection
    from slimbind.collection.exchange import import_into, parts_of

    source = options.index_folder(source)
    name, encoders = model or parts_of(source)[0].model(), None
    if model is not None:
        import slimbind

        with slimbind.load(model) as loaded:
            encoders = {modality: loaded.encoder(modality).id for modality in loaded.modalities}
        name = options.lasting(model)
    place = options.index_folder(place)
    made = not Collection.exists(place)
    with Collection.create(place, model=name, codec=codec) if made else Collection.open(place) as shelf:
        options.keep_codec(shelf.codec, codec, shelf.dim)
        count = import_into(shelf, source, id_column=id_column, encoders=encoders)
        shelf.build()
        if as_json:
            _tell(folder=str(shelf.folder), taken_in=count, items=len(shelf), made=made)
        else:
            console.say(f"{count} items taken in; {place} holds {len(shelf)}")


@collection.command()
def drop(
    place: Annotated[Path, typer.Argument(metavar="COLLECTION", help="The folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Delete a collection. The files it was made from stay."""
    import sys

    from slimbind.collection import Collection
    from slimbind.errors import UsageError

    place = options.index_folder(place)
    with Collection.open(place) as shelf:
        count = len(shelf)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{place} and its {count} items would be deleted", hint="say so with --yes")
        typer.confirm(f"Delete {place} and its {count} items?", abort=True, err=True)
    Collection.drop(place)
    if as_json:
        _tell(folder=str(place.absolute()), items=count)
    else:
        console.say(f"{place} is gone, with {count} items")


def _tell(**values: object) -> None:
    """Print what was found or done as one JSON object."""
    import json

    typer.echo(json.dumps(values, indent=1))
