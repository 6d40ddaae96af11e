"""The header of a collection: what its vectors are, and where its counters stand."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimbind.collection import database
from slimbind.errors import CollectionError, UsageError


@dataclass(frozen=True, slots=True)
class Header:
    """The one row of the table ``header``.

    Args:
        dim: length of the vectors; None until the first one comes in.
        dtype: how vectors are kept: ``f32`` or ``f16``.
        model: what to load to embed queries; may be empty.
        encoders: encoder id by modality.
        codec: which codes to search with: ``auto``, ``f32`` (none, exact), or a codec's name.
        next_key: the key that the next item gets.
        revision: grows with every change.
        epoch: grows when codes are replaced or keys of removed items forgotten; what was read before is then void.
        codes: what is known about the current code file; None where there is none.
    """

    dim: int | None
    dtype: str
    model: str
    encoders: Mapping[str, str]
    codec: str
    next_key: int
    revision: int
    epoch: int
    codes: Mapping[str, Any] | None
    created_by: str = ""
    format_version: int = database.FORMAT_VERSION


_REMOVED = 50_000  # removed items that are remembered, so that who has read all the rest need not read it again
_COLUMNS = "dim, dtype, model, encoders, codec, next_key, revision, epoch, codes, created_by, format_version"


def read(connection: sqlite3.Connection, folder: Path) -> Header:
    """The header as this transaction sees it.

    Raises:
        CollectionError: it is missing, damaged, or of a newer version.
    """
    try:
        row = connection.execute(f"SELECT {_COLUMNS} FROM header").fetchone()
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise
        version = _version(connection)
        if version is not None and version > database.FORMAT_VERSION:
            raise _newer(folder, version) from None
        raise database.damaged(folder, "it has no header") from None
    if row is None:
        raise database.damaged(folder, "its header is empty")
    if row[-1] > database.FORMAT_VERSION:
        raise _newer(folder, row[-1])
    try:
        encoders, codes = json.loads(row[3]), None if row[8] is None else json.loads(row[8])
        return Header(row[0], row[1], row[2], encoders, row[4], row[5], row[6], row[7], codes, row[9], row[10])
    except (ValueError, TypeError) as error:
        raise database.damaged(folder, f"its header: {error}") from None


def _version(connection: sqlite3.Connection) -> int | None:
    try:
        row = connection.execute("SELECT format_version FROM header").fetchone()
    except sqlite3.OperationalError:
        return None
    return int(row[0]) if row else None


def _newer(folder: Path, version: int) -> CollectionError:
    return CollectionError(
        f"the collection {folder} has format version {version}; this slimbind reads up to {database.FORMAT_VERSION}",
        hint="pip install --upgrade slimbind",
    )


def change(connection: sqlite3.Connection, **values: object) -> None:
    """Set columns of the header, inside a transaction that writes."""
    for name, value in values.items():
        told = json.dumps(value) if isinstance(value, dict) else value
        connection.execute(f"UPDATE header SET {name} = ?", (told,))  # names come from our own code only


def drop_codes(connection: sqlite3.Connection, known: Header) -> None:
    """Forget the code file and what was removed since; whoever has read either begins anew."""
    connection.execute("DELETE FROM removed")
    change(connection, codes=None, epoch=known.epoch + 1)


def forget_removed(connection: sqlite3.Connection, folder: Path, known: Header) -> Header:
    """Let what was removed not pile up where there is no code file, whose making would clear it; gives the header."""
    if known.codes is not None:
        return known
    # Each bound on its own is one look at the table's end; of both together SQLite reads every row.
    sql = "SELECT coalesce((SELECT max(seq) FROM removed) - (SELECT min(seq) FROM removed), 0)"
    (span,) = connection.execute(sql).fetchone()
    if span < _REMOVED:
        return known
    drop_codes(connection, known)
    return read(connection, folder)


def meet(header: Header, folder: Path, *, dim: int, encoders: Mapping[str, str], modalities: set[str]) -> bool:
    """Check that new vectors belong here; says whether the header learns something from them.

    Args:
        header: of the collection.
        folder: of the collection, for messages.
        dim: length of the new vectors.
        encoders: encoder id by modality, as far as the caller said; of others than those of the vectors too.
        modalities: the modalities of the new vectors.

    Raises:
        CollectionError: the length or an encoder id is another, or no encoder id was given for a modality that has one.
    """
    if header.dim is not None and dim != header.dim:
        raise CollectionError(
            f"the collection {folder} holds vectors of {header.dim} dimensions, and these have {dim}",
            hint="embed with the model of the collection, or make another collection",
        )
    for modality in sorted((modalities | encoders.keys()) & header.encoders.keys()):
        mine, other = header.encoders[modality], encoders.get(modality)
        if other is None:
            raise CollectionError(
                f"the collection {folder} holds {modality or 'vectors'} of encoder {mine}, and these do not say which "
                f"encoder made them",
                hint="name their model with --model, or in Python encoders={modality: model.encoder(modality).id}",
            )
        if mine != other:
            raise CollectionError(
                f"the collection {folder} holds {modality or 'vectors'} of encoder {mine}; these are of encoder "
                f"{other}, and cannot be compared",
                hint="embed with the model of the collection, or make another collection",
            )
    return header.dim is None or not encoders.keys() <= header.encoders.keys()


def check_model(
    name: str, own_model: str, own_encoders: Mapping[str, str], encoders: Mapping[str, str], model: str
) -> None:
    """Refuse a model whose embeddings do not belong to what is stored; one that has more modalities is welcome.

    Args:
        name: of the place, for the message.
        own_model: the model that filled it.
        own_encoders: encoder id by modality there.
        encoders: encoder ids of the model in question.
        model: its name, for the message.

    Raises:
        CollectionError: a modality has another encoder id, or none is shared.
    """
    for modality in own_encoders.keys() & encoders.keys():
        mine, other = own_encoders[modality], encoders[modality]
        if mine != other:
            raise CollectionError(
                f"{name} was made by {own_model} ({modality} encoder {mine}); {model} has {modality} encoder {other}, "
                "and their vectors cannot be compared",
                hint=f"use --model {own_model}, or another --index for {model}"
                if model != own_model
                else f"the model was changed since: delete {name} and index again, or use another --index",
            )
    if own_encoders and not own_encoders.keys() & encoders.keys():
        raise CollectionError(
            f"{name} was made by {own_model}, which shares no modality with {model}",
            hint=f"use --model {own_model}, or another --index for {model}",
        )


def check_dtype(dtype: str) -> str:
    """``f32`` or ``f16``.

    Raises:
        UsageError: it is neither.
    """
    if dtype not in ("f32", "f16"):
        raise UsageError.unknown("dtype", dtype, ["f32", "f16"])
    return dtype
