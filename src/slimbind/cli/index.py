"""``slimbind index``: make folders searchable, and keep them so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, options

if TYPE_CHECKING:
    from slimbind.bulk import Reader, Row
    from slimbind.runtime.model import Model

_BY_DEFAULT = ("vision", "audio")  # a folder's texts are mostly not what people look for among their pictures


def index(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Folders to make searchable.")],
    index_path: options.IndexPath = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", envvar="SLIMBIND_MODEL", help="Default: the model of the index, else mini."),
    ] = None,
    modality: options.Modality = "auto",
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    memory_budget: options.MemoryBudget = None,
    device: options.Device = "cpu",
    codec: options.Codec = "auto",
    refresh: Annotated[bool, typer.Option("--refresh", help="Embed unchanged files again.")] = False,
    remove_missing: Annotated[
        bool,
        typer.Option("--remove-missing", help="Let files leave even where a folder is empty now, or lost most."),
    ] = False,
    progress: options.Progress = None,
) -> None:
    """Make the pictures and sounds in folders searchable.

    Only what is new or changed since the last time is embedded; what is gone leaves the index. Where it looks as if a
    drive were missing, it stays, and the exit code is 4. Several folders can live in one index. After Ctrl-C the next
    run goes on where this one stopped. Texts are taken in only when asked for with --modality text.

    slimbind index ~/Pictures
    """
    import slimbind
    from slimbind.bulk import learn_prompts, update_index
    from slimbind.collection import Collection
    from slimbind.collection.location import check_destination

    only = options.only_modality(modality)
    roots = _folders(folders)
    place = options.index_folder(index_path)
    check_destination(place)
    with ExitStack() as stack:
        shelf = stack.enter_context(Collection.open(place)) if Collection.exists(place) else None
        source = model or (shelf.model if shelf is not None else "") or "mini"
        loaded = stack.enter_context(slimbind.load(source, threads=threads, memory_budget=memory_budget, device=device))
        reader = _reader(source, loaded, only, place)
        ids = {name: loaded.encoder(name).id for name in loaded.modalities}
        if shelf is not None:
            options.keep_codec(shelf.codec, codec, shelf.dim)
        else:
            made = Collection.create(place, dim=loaded.dim, model=options.lasting(source), encoders=ids, codec=codec)
            shelf = stack.enter_context(made)
        shelf.check(ids, model=options.lasting(source))
        total = _count(_reader(source, loaded, only, place), roots) if console.shows_progress(progress) else None
        advance = stack.enter_context(console.progress("indexing", total=total, unit="files", show=progress))

        def report(row: Row) -> None:
            if row.error is not None:
                console.say(f"failed: {row.item.id}: {row.reason}")

        try:
            summary = update_index(
                shelf,
                loaded,
                reader,
                roots,
                batch_size=batch_size,
                refresh=refresh,
                remove_missing=remove_missing,
                on_done=advance,
                on_row=report,
            )
        except KeyboardInterrupt:
            console.say(f"{len(shelf)} files are in the index; run the same command again to go on")
            raise
        learn_prompts(shelf, loaded)
        shelf.build()
        count = len(shelf)
    for reason, number in summary.skipped.items():
        console.say(f"skipped {number}: {reason}")
    console.say(
        f"{place}: {count} files; {summary.added} added, {summary.changed} changed, {summary.unchanged} unchanged, "
        f"{summary.removed} removed, {summary.failed} failed in {summary.seconds:.1f} s"
        + (f"; {summary.copied} had the content of another" if summary.copied else "")
    )
    for held in summary.held:
        console.say(f"kept, though their files are gone: {held.count} items of {held.folder}, which {held.why}")
    if summary.held:
        console.say("is a drive missing? If not, `slimbind index --remove-missing` lets them leave")
    if summary.failed or summary.held:
        raise typer.Exit(4)


def _folders(given: Sequence[str]) -> list[str]:
    from slimbind.errors import UsageError

    for folder in given:
        if not os.path.isdir(folder):
            what = "is not a folder" if os.path.lexists(folder) else "does not exist"
            raise UsageError(f"{folder} {what}", hint="name the folders to make searchable")
    return [os.path.abspath(folder) for folder in given]


def _reader(source: str, model: Model, only: str | None, place: Path) -> Reader:
    from slimbind.bulk import Reader
    from slimbind.errors import UsageError

    wanted = [name for name in model.modalities if name in _BY_DEFAULT]
    if not wanted and only is None:
        has = ", ".join(model.modalities)
        raise UsageError(f"{source} embeds neither pictures nor sounds, but {has}", hint="name a --modality")
    return Reader(source, model.modalities, wanted=wanted, modality=only, exclude=place)


def _count(reader: Reader, folders: Sequence[str]) -> int:
    return sum(1 for folder in folders for _ in reader.folder(folder))
