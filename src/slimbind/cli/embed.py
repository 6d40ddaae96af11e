"""``slimbind embed``: files, folders and texts to vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from slimbind.cli import console, options

if TYPE_CHECKING:
    from slimbind.bulk.items import Item
    from slimbind.bulk.reader import Reader


def embed(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH...]", help="Files and folders; - reads one text per line from standard input."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="A text to embed; may be repeated.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", envvar="SLIMBIND_OUTPUT", help="A .npz, .parquet or .jsonl file (default: lines of JSON)."
        ),
    ] = None,
    model: options.Model = "mini",
    modality: options.Modality = "auto",
    lines: Annotated[bool, typer.Option("--lines", help="Text files hold one text per line.")] = False,
    paths_from: Annotated[
        Path | None, typer.Option("--paths-from", help="A file that lists paths, one per line; - is standard input.")
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="--paths-from is separated by NUL (find -print0).")
    ] = False,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    memory_budget: options.MemoryBudget = None,
    device: options.Device = "cpu",
    progress: options.Progress = None,
) -> None:
    """Turn files, folders and texts into vectors, with ids and errors beside them.

    Folders are read recursively; their files of unknown type are skipped and counted. A file that cannot be embedded
    is reported, the rest is done, and the exit code is 4.

    A .npz has the arrays ids, modalities and vectors, and error_ids with errors; .parquet and .jsonl have one row per
    item with id, modality, and a vector or an error.

    slimbind embed photos/ -o photos.npz
    """
    import sys

    import slimbind
    from slimbind.bulk import About, Reader, embed_items, open_writer
    from slimbind.bulk.writer import Stream, check_output
    from slimbind.errors import UsageError

    paths, text = paths or [], text or []
    if not paths and not text and paths_from is None:
        raise UsageError("nothing to embed", hint="name files or folders, or give --text")
    from_input = paths.count("-") + (str(paths_from) == "-")
    if from_input > 1:
        raise UsageError("standard input is asked for twice", hint="use - once")
    only = options.only_modality(modality)
    if "-" in paths and only not in (None, "text"):
        raise UsageError(f"- reads texts, and --modality is {only}", hint="list files with --paths-from -")
    if output is not None:
        check_output(output)
    if paths_from is not None and str(paths_from) != "-" and not paths_from.is_file():
        raise UsageError(f"--paths-from {paths_from} is no file", hint="name a file that lists paths")

    with slimbind.load(model, threads=threads, memory_budget=memory_budget, device=device) as loaded:
        about = About(model, loaded.dim, {name: loaded.encoder(name).id for name in loaded.modalities})
        reader = Reader(model, loaded.modalities, modality=only, lines=lines)
        items = _items(reader, text, paths, paths_from, null, sys.stdin.buffer)
        total = None
        if console.shows_progress(progress) and not from_input:
            again = Reader(model, loaded.modalities, modality=only, lines=lines)
            total = sum(1 for _ in _items(again, text, paths, paths_from, null, sys.stdin.buffer))
        done = failed = 0
        with (
            open_writer(output, about) if output else Stream(sys.stdout.buffer, about) as writer,
            console.progress("embedding", total=total, show=progress) as advance,
        ):
            for row in embed_items(loaded, items, batch_size=batch_size, on_done=advance):
                writer.write(row)
                if row.error is None:
                    done += 1
                else:
                    failed += 1
                    console.say(f"failed: {row.item.id}: {row.reason}")
    for reason, count in reader.skipped.items():
        console.say(f"skipped {count}: {reason}")
    if output:
        console.say(f"{done} vectors written to {output}" + (f", {failed} items failed" if failed else ""))
    if failed:
        raise typer.Exit(4)


def _items(
    reader: Reader, texts: Iterable[str], paths: Iterable[str], paths_from: Path | None, null: bool, stdin: BinaryIO
) -> Iterator[Item]:
    from slimbind.bulk.reader import paths_of

    yield from reader.texts(texts)
    for path in paths:
        yield from reader.lines_of(stdin, "-") if path == "-" else reader.paths([path])
    if paths_from is None:
        return
    if str(paths_from) == "-":
        yield from reader.paths(paths_of(stdin, null=null))
    else:
        with open(paths_from, "rb") as listing:
            yield from reader.paths(paths_of(listing, null=null))
