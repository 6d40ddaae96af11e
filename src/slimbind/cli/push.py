"""``slimbind push``: a collection into LanceDB or PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimbind.cli import console, options


def push(
    place: Annotated[Path, typer.Argument(metavar="COLLECTION", help="The folder of the collection.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="lancedb://folder-or-s3, or postgresql://user@host/database.")
    ],
    table: options.Table = "slimbind",
) -> None:
    """Write a whole collection into LanceDB or PostgreSQL (with pgvector), where `search --index TARGET` finds it.

    Original vectors and all metadata go over, in the place of what the table held, in one step.

    slimbind push photos.slim postgresql://me@server/photos
    """
    import time

    from slimbind.collection import Collection
    from slimbind.collection.remote import open_remote
    from slimbind.collection.remote import push as write

    start = time.monotonic()
    with Collection.open(options.index_folder(place)) as shelf, open_remote(target, table=table) as remote:
        count = write(shelf, remote)
        console.say(f"{count} items written to {remote.name}, table {table}, in {time.monotonic() - start:.1f} s")
