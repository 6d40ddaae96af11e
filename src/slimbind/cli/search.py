"""``slimbind search``: ask an index with a text, a picture or a sound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, options
from slimbind.cli.scores import Meaning

if TYPE_CHECKING:
    from slimbind.collection import Collection, Hit
    from slimbind.collection.remote import Remote


def search(
    query: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What to look for, in words.", show_default=False)
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture or video to find the like of.")] = None,
    audio: Annotated[Path | None, typer.Option("--audio", help="A sound to find the like of.")] = None,
    k: Annotated[int, typer.Option("-k", envvar="SLIMBIND_K", min=1, help="How many answers.")] = 10,
    modality: Annotated[
        str, typer.Option(envvar="SLIMBIND_SEARCH_MODALITY", help="Look only among files of this modality.")
    ] = "auto",
    where: Annotated[
        str, typer.Option("--where", help="Look only among files of which this is true: \"suffix = '.jpg'\".")
    ] = "",
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", min=0, max=1, help="Only what matches with this probability, the likeliest first."),
    ] = None,
    min_cosine: Annotated[
        float | None, typer.Option("--min-cosine", min=-1, max=1, help="Only what is at least so near.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores", envvar="SLIMBIND_SCORES", help="What scores mean: a file that `slimbind eval calibrate` wrote."
        ),
    ] = None,
    as_json: options.Json = False,
    index_path: Annotated[
        str | None,
        typer.Option(
            "--index",
            envvar="SLIMBIND_INDEX",
            help="The index folder (default: slimbind/index in your data folder), or where `push` wrote it.",
        ),
    ] = None,
    table: options.Table = "slimbind",
    model: Annotated[
        str | None, typer.Option("--model", "-m", envvar="SLIMBIND_MODEL", help="Default: the model of the index.")
    ] = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which towers were opened, and how long it took.")
    ] = False,
) -> None:
    """Find the files nearest to a text, a picture or a sound.

    Prints a table on a terminal and "score<TAB>path" lines elsewhere; the score is the cosine, 1 is identical. Only
    the tower of the query is opened. Where the model is calibrated (`slimbind eval calibrate`), "match" is the
    probability that a file is what was looked for, if that was as likely as not beforehand.

    slimbind search "a dog on a beach" --min-score 0.9
    """
    import time

    import slimbind
    from slimbind.errors import ItemsError

    kind, item = _only_query(query, image, audio)
    among = options.only_modality(modality)
    start = time.perf_counter()
    with _opened(index_path, table) as shelf:
        source = model or shelf.model or "mini"
        with slimbind.load(source, threads=threads, device=device) as loaded:
            encoder = loaded.encoder(kind)
            shelf.check({name: loaded.encoder(name).id for name in loaded.modalities}, model=options.lasting(source))
            meaning = Meaning(loaded, kind, file=scores, least=min_score, least_cosine=min_cosine)
            meaning.check([among] if among else [])
            opened_index = time.perf_counter()
            try:
                vector = encoder.embed([item])[0]
            except ItemsError as error:
                raise next(iter(error.errors.values())) from None
            embedded = time.perf_counter()
            found, good = meaning.search(shelf, vector, k, where=where, modality=among)
            hits = [(hit, meaning.probability(hit)) for hit in good]
            searched = time.perf_counter()
            count = len(shelf)
            if verbose:
                console.say(
                    f"index of {count} files opened in {_ms(start, opened_index)}; query embedded in "
                    f"{_ms(opened_index, embedded)}; searched in {_ms(embedded, searched)}"
                )
                for name, tower in loaded.loaded.items():
                    memory = (
                        "" if tower.resident is None else f", {tower.resident / 1e6:.1f} MB of memory with the engine"
                    )
                    took = f"{tower.seconds * 1000:.0f} ms"
                    console.say(f"opened: {name}, {tower.bytes / 1e6:.1f} MB of weights{memory}, in {took}")
    if as_json:
        _print_json(hits)
    else:
        _print_plain(hits)
    gone = sum(not os.path.exists(hit.source) for hit, _ in hits)
    if not count:
        console.say("the index is empty: `slimbind index FOLDER` fills it")
    elif len(hits) < len(found):
        console.say(f"{len(found) - len(hits)} of the {len(found)} nearest files do not match so well")
    if gone and not as_json:
        console.say(f"{gone} of these files are no longer there: `slimbind index FOLDER` mends the index")


def _opened(index: str | None, table: str) -> Collection | Remote:
    from slimbind.collection import Collection
    from slimbind.collection.remote import is_remote, open_remote

    if index is not None and is_remote(index):
        return open_remote(index, table=table)
    return Collection.open(options.index_folder(None if index is None else Path(index)))


def _only_query(query: str | None, image: Path | None, audio: Path | None) -> tuple[str, str | Path]:
    from slimbind.errors import UsageError

    given: list[tuple[str, str | Path]] = [
        (kind, item) for kind, item in (("text", query), ("vision", image), ("audio", audio)) if item is not None
    ]
    if len(given) != 1:
        what = "no query" if not given else f"{len(given)} queries at once"
        raise UsageError(what, hint='give one of: "some words", --image FILE, --audio FILE')
    if isinstance(given[0][1], str) and not given[0][1].strip():
        raise UsageError("the query is empty", hint='for example: slimbind search "a dog"')
    return given[0]


def _print_json(hits: list[tuple[Hit, float | None]]) -> None:
    import sys

    from slimbind.bulk.writer import to_json

    told = [
        {
            "id": hit.id,
            "path": hit.source,
            "modality": hit.modality,
            "score": round(hit.score, 6),
            "probability": None if probability is None else round(probability, 6),
            "missing": not os.path.exists(hit.source),
            "metadata": hit.metadata,
        }
        for hit, probability in hits
    ]
    sys.stdout.buffer.write(to_json(told).encode("utf-8") + b"\n")


def _print_plain(hits: list[tuple[Hit, float | None]]) -> None:
    import sys

    if not sys.stdout.isatty():
        for hit, _ in hits:
            # The path's own bytes, except for those that would break the line.
            path = hit.source.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
            sys.stdout.buffer.write(f"{hit.score:.4f}\t".encode() + os.fsencode(path) + b"\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("score", justify="right", style="cyan")
    calibrated = any(probability is not None for _, probability in hits)
    if calibrated:
        table.add_column("match", justify="right", style="green")
    table.add_column("modality", style="dim")
    table.add_column("path", overflow="fold")
    for hit, probability in hits:
        shown = Text(console.printable(hit.source))
        if not os.path.exists(hit.source):
            shown.append("  (gone)", style="red")
        match = [_percent(probability)] if calibrated else []
        table.add_row(f"{hit.score:.3f}", *match, hit.modality, shown)
    Console().print(table)


def _percent(probability: float | None) -> str:
    """Rounded down: what is not sure is never told to be."""
    return "" if probability is None else f"{int(100 * probability)} %"


def _ms(start: float, end: float) -> str:
    return f"{(end - start) * 1000:.0f} ms"
