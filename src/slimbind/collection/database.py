"""The SQLite file that is the truth: its tables, its connections, and its errors in plain words.

    header     one row: format, dimension, encoder ids, codec, counters, and which code file is current
    items      one row per item: key, id, modality, source, content hash, file stamp, metadata JSON, checksum
    vectors    its vector under the same key, apart from the rest so that filters do not read it
    removed    keys that were taken out since the code file was made
    queries    sample query vectors by modality, which the transform of the codes is fitted on

A key is a number that is used once: an item that is written again gets a new one, so the vector under a key never
changes. All text is UTF-8; bytes that are none pass through unchanged.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from slimbind.errors import CollectionError

FILE = "collection.db"
FORMAT_VERSION = 1
_APPLICATION = 0x736C696D  # "slim", which `file` and SQLite's own tools show
_PAGE = 16384  # bytes; with 4096, one vector of 512 floats would leave half of its page empty

BY_MODALITY = "CREATE INDEX IF NOT EXISTS items_modality ON items (modality)"
_SCHEMA = f"""
CREATE TABLE header (
  only INTEGER PRIMARY KEY CHECK (only = 1), format_version INTEGER NOT NULL, created_by TEXT NOT NULL,
  dim INTEGER, dtype TEXT NOT NULL, model TEXT NOT NULL, encoders TEXT NOT NULL, codec TEXT NOT NULL,
  next_key INTEGER NOT NULL, revision INTEGER NOT NULL, epoch INTEGER NOT NULL, codes TEXT);
CREATE TABLE items (
  key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, modality TEXT NOT NULL, source TEXT NOT NULL, hash TEXT NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, metadata TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE INDEX items_hash ON items (hash, modality) WHERE hash <> '';
{BY_MODALITY};
CREATE TABLE vectors (key INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE removed (seq INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL);
CREATE TABLE queries (modality TEXT NOT NULL, vector BLOB NOT NULL);
"""


def text(value: bytes) -> str:
    """A text column as Python sees it; what is no UTF-8 becomes surrogate escapes."""
    return value.decode("utf-8", "surrogateescape")


def is_there(path: Path) -> bool:
    """Whether there is a collection's file, whole or damaged.

    One without any table is none: it was being made when its process was killed or the disk was full, and can be made.
    """
    try:
        if path.stat().st_size > _PAGE:
            return True
    except FileNotFoundError:
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.Error:
        return True


class Database:
    """Connections to one file: any number that read, one that writes. Safe to use from several threads.

    A process that was forked from this one cannot use it: SQLite forbids to carry connections across a fork, and a
    thread that was at work then left its locks behind, locked for ever. They are SQLite's as well as ours, so that the
    forked process may not even be able to open the file, unless nobody was using it at that moment.

    Args:
        path: the file; it exists, or ``create`` makes it.
        timeout: seconds to wait for another writer.
        create: make the tables, and call this with the connection before they are there for anybody else.
    """

    def __init__(
        self, path: Path, *, timeout: float, create: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        self.path = path
        self._timeout = timeout
        self._idle: list[sqlite3.Connection] = []
        self._pool = threading.Lock()
        self._writer = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._uri = f"{path.absolute().as_uri()}?mode="
        if create:
            self._create(create)

    @property
    def inherited(self) -> bool:
        """Whether this process was forked from the one that opened it."""
        return self._process != os.getpid()

    def _check(self) -> None:
        """Raised before any lock is taken, because in a forked process one may never be free."""
        if self.inherited:
            raise CollectionError(
                f"the collection {self.path.parent} was opened by the process that forked this one",
                hint="open it again in this process",
            )

    def _create(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        with self._explained(), contextlib.closing(self._prepared("rwc")) as connection:
            # Both are fixed when the first page is written.
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.execute("ROLLBACK")
                raise CollectionError(f"{self.path.parent} is a collection already", hint="open it instead")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO header VALUES (1, ?, '', NULL, 'f32', '', '{}', 'auto', 1, 0, 0, NULL)", (FORMAT_VERSION,)
            )
            fill(connection)
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._prepared("rw")
        except sqlite3.OperationalError:
            # SQLite shares a file with a writer only where it can write beside it. In a folder that we may not write
            # to it is read as something that nobody changes.
            if os.access(self.path.parent, os.W_OK) or Path(f"{self.path}-wal").exists():
                raise
            return self._prepared("ro&immutable=1")

    def _prepared(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri + mode,
            uri=True,
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        try:
            connection.text_factory = text
            # What was said to be written must survive a power cut as well as a killed process, hence FULL: a commit
            # waits until the disk has it. It costs one flush per commit, and commits are batches.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the disk's own cache
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere runs no functions by itself
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of everything until the block ends; it never waits for a writer.

        Raises:
            CollectionError: the file is damaged, or the collection was closed, or opened before a fork.
        """
        self._check()
        with self._explained():
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._give_back(connection)

    @contextlib.contextmanager
    def writing(self, *, wait: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection whose changes become visible together when the block ends, or not at all.

        Args:
            wait: for another writer, until the timeout.

        Raises:
            CollectionError: another process writes and did not end in time, the disk is full, the file is damaged, or
                was opened before a fork.
        """
        self._check()
        if not self._writer.acquire(timeout=self._timeout if wait else 0):
            raise self._busy()
        try:
            with self._explained():
                connection = self._take()
                try:
                    if not wait:
                        connection.execute("PRAGMA busy_timeout = 0")
                    connection.execute("BEGIN IMMEDIATE")
                    yield connection
                    connection.execute("UPDATE header SET revision = revision + 1")
                    connection.execute("COMMIT")
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
                    self._give_back(connection)
        finally:
            self._writer.release()

    @contextlib.contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """A connection outside any transaction, for what SQLite does in one of its own (``VACUUM``)."""
        self._check()
        if not self._writer.acquire(timeout=self._timeout):
            raise self._busy()
        try:
            with self._explained():
                connection = self._take()
                try:
                    yield connection
                finally:
                    self._give_back(connection)
        finally:
            self._writer.release()

    def _take(self) -> sqlite3.Connection:
        with self._pool:
            if self._closed:
                raise CollectionError(f"the collection {self.path.parent} was closed", hint="open it again")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        with self._pool:
            if not self._closed and not connection.in_transaction:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is idle now, and the rest as it comes back."""
        if self.inherited:
            return  # to close the other process's connections here could take its locks and its log away
        with self._pool:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: sqlite3.Error) -> CollectionError:
        said = str(error)
        folder = self.path.parent
        if "locked" in said or "busy" in said:
            return self._busy()
        if "full" in said:
            return CollectionError(
                f"{folder}: the disk is full; nothing was changed", hint="free some space and run again"
            )
        if "readonly" in said or "read-only" in said:
            return CollectionError(f"{folder} cannot be written: {said}", hint="check its permissions")
        if "disk I/O" in said or "unable to open" in said:
            return CollectionError(f"{folder}: {said}; nothing was changed", hint="check the disk and permissions")
        if isinstance(error, sqlite3.DatabaseError) and ("malformed" in said or "not a database" in said):
            return damaged(folder, said)
        return CollectionError(f"{folder}: {said}")

    def _busy(self) -> CollectionError:
        return CollectionError(
            f"another process is writing the collection {self.path.parent}, and was not done within "
            f"{self._timeout:g} s",
            hint="wait until it is done, or give a longer timeout",
        )


def damaged(folder: Path, why: str) -> CollectionError:
    """The error for a file that is not what was written."""
    return CollectionError(
        f"the collection {folder} is damaged: {why}",
        hint="restore it from a backup, or delete the folder and run `slimbind index` again",
    )
