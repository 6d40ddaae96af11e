"""PostgreSQL with pgvector as the place of a collection: one table, written in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from slimbind.collection.entry import Entry, Hit
from slimbind.collection.filters import Compare, Exists, Field, In, Like, Node, Value
from slimbind.collection.filters_sql import OPERATORS, Leaf, any_or_all, combined
from slimbind.collection.remote import About, Batch, Remote, complete, plain
from slimbind.errors import CollectionError, MissingExtraError, UsageError

_INDEX_FROM = 10_000  # items; fewer are compared one by one
_INDEX_DIM = 2000  # the most that pgvector's index takes
_COLUMNS = "id, modality, source, hash, size, mtime_ns, metadata"


class Postgres(Remote):
    """A table of a PostgreSQL database.

    Raises:
        CollectionError: nobody answers there.
        MissingExtraError: psycopg is not installed.
        UsageError: the address is none.
    """

    def __init__(self, url: str, table: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            hint = "for example postgresql://user@host/database"
            raise UsageError(f"the address of the database cannot be read: {error}", hint=hint) from None
        # Without the password, which an address may hold.
        super().__init__(f"postgresql://{parts.hostname or ''}{parts.path}", table)
        if find_spec("psycopg") is None:
            raise MissingExtraError("psycopg, which talks to PostgreSQL,", extra="postgresql")
        import psycopg

        with self._explained():
            self._connection: Any = psycopg.connect(url, autocommit=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            hint = "install pgvector on the server" if "extension" in first else "check the address and the server"
            raise CollectionError(f"{self.name}: {first}", hint=hint) from error

    def _sql(self, text: str) -> Any:  # noqa: ANN401
        """A statement with the names of our tables in it."""
        from psycopg import sql

        names = {"items": self.table, "header": f"{self.table}_header", "index": f"{self.table}_embedding"}
        return sql.SQL(text).format(**{key: sql.Identifier(name) for key, name in names.items()})

    def _there(self, name: str) -> bool:
        found = self._connection.execute("SELECT to_regclass(%s)", (f'"{name}"',)).fetchone()
        return found[0] is not None

    def _is_ours(self) -> bool:
        """Whether the header beside the table is one that slimbind wrote, whatever its version."""
        columns = (
            "SELECT array_agg(attname::text) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        )
        if self._connection.execute(columns, (f'"{self.table}_header"',)).fetchone()[0] != ["about"]:
            return False
        told = self._connection.execute(self._sql("SELECT about::text FROM {header}")).fetchall()
        return len(told) == 1 and '"format_version"' in told[0][0]

    def about(self) -> About:
        """As ``Remote.about``."""
        with self._explained():
            if not self._there(f"{self.table}_header"):
                raise CollectionError(
                    f"{self.name} has no collection {self.table!r}", hint="`slimbind push` makes one; see --table"
                )
            (told,) = self._connection.execute(self._sql("SELECT about::text FROM {header}")).fetchone()
        return About.from_json(told, self.name)

    def write(self, about: About, batches: Iterator[Batch]) -> int:
        """As ``Remote.write``."""
        count = 0
        with self._explained(), self._connection.transaction():
            names = (self.table, f"{self.table}_header")
            if any(self._there(name) for name in names) and not self._is_ours():
                raise CollectionError(
                    f"{self.name} has a table {self.table!r} that slimbind did not make", hint="choose another --table"
                )
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            self._connection.execute(self._sql("DROP TABLE IF EXISTS {items}, {header}"))
            self._connection.execute(
                self._sql(
                    "CREATE TABLE {items} (id text PRIMARY KEY, modality text NOT NULL, source text NOT NULL, "
                    "hash text NOT NULL, size bigint NOT NULL, mtime_ns bigint NOT NULL, metadata jsonb NOT NULL, "
                    f"embedding vector({about.dim}) NOT NULL)"
                )
            )
            self._connection.execute(self._sql("CREATE TABLE {header} (about jsonb NOT NULL)"))
            self._connection.execute(self._sql("INSERT INTO {header} VALUES (%s::jsonb)"), (about.to_json(),))
            with (
                self._connection.cursor() as cursor,
                cursor.copy(self._sql(f"COPY {{items}} ({_COLUMNS}, embedding) FROM STDIN")) as copy,
            ):
                for entries, rows in batches:
                    for entry, row in zip(entries, rows, strict=True):
                        told = json.dumps(dict(entry.metadata), ensure_ascii=False)
                        texts = [plain(text) for text in (entry.id, entry.modality, entry.source, entry.hash)]
                        copy.write_row((*texts, entry.size, entry.mtime_ns, told, _vector(row)))
                    count += len(entries)
            if count >= _INDEX_FROM and about.dim <= _INDEX_DIM:
                self._connection.execute(
                    self._sql("CREATE INDEX {index} ON {items} USING hnsw (embedding vector_ip_ops)")
                )
        return count

    def nearest(self, query: NDArray[np.float32], k: int, wanted: Node | None) -> list[Hit]:
        """As ``Remote.nearest``."""
        condition, parameters = ("true", []) if wanted is None else compiled(wanted)
        text = _vector(query)
        statement = self._sql(
            "SELECT id, -(embedding <#> %s::vector), modality, source, metadata FROM {items} "
            f"WHERE {condition} ORDER BY embedding <#> %s::vector LIMIT %s"
        )

        def ask(limit: int) -> tuple[list[Hit], float | None]:
            # The index finds the nearest of all and drops what the filter does not want; and it finds some hundreds.
            exact = wanted is not None or limit > 201
            setting = "enable_indexscan = off" if exact else f"hnsw.ef_search = {max(100, 4 * limit)}"
            self._connection.execute(f"SET LOCAL {setting}")
            rows = self._connection.execute(statement, (text, *parameters, text, limit)).fetchall()
            return [Hit(*row) for row in rows], rows[-1][1] if len(rows) == limit else None

        with self._explained(), self._connection.transaction():
            self._connection.execute("SELECT '[1]'::vector")  # loads the extension, and so makes its settings known
            return complete(k, k + 1, ask)

    def entries(self) -> Iterator[Batch]:
        """As ``Remote.entries``."""
        with (
            self._explained(),
            self._connection.transaction(),
            self._connection.cursor(name="slimbind_entries") as cursor,
        ):
            cursor.execute(self._sql(f"SELECT {_COLUMNS}, embedding::text FROM {{items}}"))
            while rows := cursor.fetchmany(1000):
                found = [Entry(row[0], row[1], row[2], row[6], row[3], row[4], row[5]) for row in rows]
                yield found, np.array([json.loads(row[7]) for row in rows], np.float32)

    def __len__(self) -> int:
        with self._explained():
            return int(self._connection.execute(self._sql("SELECT count(*) FROM {items}")).fetchone()[0])

    def close(self) -> None:
        """As ``Remote.close``."""
        self._connection.close()


def _vector(row: NDArray[np.float32]) -> str:
    return "[" + ",".join(["%.9g"] * len(row)) % tuple(row.tolist()) + "]"


Parameters = list[object]


def compiled(node: Node) -> tuple[str, Parameters]:
    """A filter as a condition with its parameters; true or false for every row, never null."""
    return combined(node, _condition)


def _condition(node: Leaf) -> tuple[str, Parameters]:
    if isinstance(node, Exists):
        if node.field.column:
            return "true", []
        path = list(node.field.path)
        if node.or_null:
            return "metadata #> %s::text[] IS NOT NULL", [path]
        return "coalesce(jsonb_typeof(metadata #> %s::text[]), 'null') <> 'null'", [path]
    if isinstance(node, Like):
        test = 'lower({} COLLATE "C") LIKE lower(%s::text COLLATE "C") ESCAPE \'\''
        return _typed(node.field, "string", test, node.pattern)
    if isinstance(node, In):
        return any_or_all("or", [_compare(Compare(node.field, "=", value)) for value in node.values])
    return _compare(node)


def _compare(node: Compare) -> tuple[str, Parameters]:
    op = OPERATORS[node.op]
    if isinstance(node.value, bool):
        return _typed(node.field, "boolean", f"{{}}::boolean {op} %s::boolean", node.value)
    if isinstance(node.value, str):
        return _typed(node.field, "string", f'{{}} COLLATE "C" {op} %s::text', node.value)
    return _typed(node.field, "number", f"{{}}::numeric {op} %s::numeric", repr(node.value))


def _typed(field: Field, kind: str, test: str, value: Value) -> tuple[str, Parameters]:
    """``test`` on a field of this type; false where it is missing or of another."""
    if field.column:
        return (test.format(field.column), [value]) if kind == "string" else ("false", [])
    path = list(field.path)
    # CASE, because only it promises not to look at what stands behind a condition that is false.
    sql = f"CASE WHEN jsonb_typeof(metadata #> %s::text[]) = '{kind}' THEN {test.format('(metadata #>> %s::text[])')} "
    return f"{sql}ELSE false END", [path, path, value]
