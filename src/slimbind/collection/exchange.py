"""Collections from and to plain files in clip-retrieval's layout: vectors as ``.npy``, the rest as parquet.

    <folder>/img_emb/img_emb_0.npy          [n, dim] vectors of pictures; text_emb/ of texts, <modality>_emb/ of others
    <folder>/metadata/metadata_0.parquet    n rows that belong to them

A folder of ours holds one modality; several lie in one subfolder each. One from elsewhere may have pictures and texts
side by side, row by row. Ours also say id, source, hash and metadata of each item, so that what comes back is what went
out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.collection.collection import Collection
from slimbind.collection.entry import Entry
from slimbind.errors import CollectionError, MissingExtraError, UsageError

_PART = 65_536  # rows in one file
_BATCH = 4096  # rows written to a collection in one step
_FOLDERS = {"img_emb": "vision", "text_emb": "text"}
_IDS = ("id", "image_path", "key", "url")  # columns that may name a row, the first one that is there
_PLAIN = re.compile(r"(?!.*_emb$)(?!metadata$)[a-z][a-z0-9_]{0,30}")  # modalities that may name a folder
_NUMBER = re.compile(r"_(\d+)\.(npy|parquet)$")


def export(collection: Collection, folder: str | os.PathLike[str], *, where: str = "") -> int:
    """Write items into a new folder; says how many. The folder is there when all of it is.

    Args:
        collection: what to write, as it is now.
        folder: new, or empty.
        where: only items that this filter lets through.

    Raises:
        CollectionError: there is something in the folder already, or the disk is full.
        MissingExtraError: pyarrow is not installed.
        UsageError: the filter cannot be read.
    """
    _require()
    target = Path(os.path.abspath(folder))
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists() or target.is_symlink():
        raise CollectionError(f"{target} is there already", hint="choose a new folder")
    batches = collection.batches(where)
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        stats = collection.stats()
        writers: dict[str, _Writer] = {}
        several = len(stats.modalities) > 1
        about = {"slimbind.model": stats.model, "slimbind.encoders": json.dumps(dict(stats.encoders))}
        for entries, rows in batches:
            for modality in dict.fromkeys(entry.modality for entry in entries):
                if modality not in writers:
                    # Whatever a modality is called: its folder lies in ours, and is that of no other.
                    name = modality if _PLAIN.fullmatch(modality) else f"items{len(writers) or ''}"
                    writers[modality] = _Writer(partial / name if several else partial, name, stats.dtype, about)
                mine = [place for place, entry in enumerate(entries) if entry.modality == modality]
                writers[modality].write([entries[place] for place in mine], rows[mine])
        for writer in writers.values():
            writer.flush()
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CollectionError(f"{target} was not written: {error.strerror}", hint="check the disk") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return sum(writer.total for writer in writers.values())


class _Writer:
    """Collects items of one modality and writes them in parts."""

    def __init__(self, folder: Path, name: str, dtype: str, about: Mapping[str, str]) -> None:
        names = {told: emb for emb, told in _FOLDERS.items()}
        self._name = names.get(name, f"{name}_emb")
        self._folder = folder
        self._dtype = np.float16 if dtype == "f16" else np.float32
        self._about = about
        self._entries: list[Entry] = []
        self._rows: list[NDArray[np.float32]] = []
        self._part = 0
        self.total = 0

    def write(self, entries: list[Entry], rows: NDArray[np.float32]) -> None:
        self._entries += entries
        self._rows.append(rows)
        self.total += len(entries)
        if len(self._entries) >= _PART:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._entries:
            return
        for name in (self._name, "metadata"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        array = np.concatenate(self._rows).astype(self._dtype)
        np.save(self._folder / self._name / f"{self._name}_{self._part}.npy", array, allow_pickle=False)
        # Text of file names that is no UTF-8 is bytes in parquet too: it goes through as it is on the disk.
        columns = {
            "id": pa.array([_bytes(entry.id) for entry in self._entries], pa.binary()),
            "modality": pa.array([_bytes(entry.modality) for entry in self._entries], pa.binary()),
            "source": pa.array([_bytes(entry.source) for entry in self._entries], pa.binary()),
            "hash": pa.array([_bytes(entry.hash) for entry in self._entries], pa.binary()),
            "size": pa.array([entry.size for entry in self._entries], pa.int64()),
            "mtime_ns": pa.array([entry.mtime_ns for entry in self._entries], pa.int64()),
            "metadata": pa.array([json.dumps(dict(entry.metadata)) for entry in self._entries], pa.string()),
        }
        shown = [entry.source.encode("utf-8", "backslashreplace").decode() for entry in self._entries]
        columns["caption" if self._name == "text_emb" else "image_path"] = pa.array(shown, pa.string())
        table = pa.table(columns).replace_schema_metadata(self._about)
        pq.write_table(table, self._folder / "metadata" / f"metadata_{self._part}.parquet")
        self._entries, self._rows, self._part = [], [], self._part + 1


def import_into(
    collection: Collection,
    folder: str | os.PathLike[str],
    *,
    id_column: str | None = None,
    encoders: Mapping[str, str] | None = None,
) -> int:
    """Add what a folder holds; items that are there are replaced. Says how many.

    Args:
        collection: where to.
        folder: in clip-retrieval's layout, ours or another's.
        id_column: the column that names the rows (default: the first there is of id, image_path, key, url).
        encoders: encoder id by modality (default: what the folder says, which only ours do).

    Raises:
        CollectionError: files are missing, damaged or do not fit together, or vectors do not fit the collection. What
            was added before is there.
        MissingExtraError: pyarrow is not installed.
        UsageError: the rows have no such column.
    """
    _require()
    count = 0
    for part in parts_of(Path(folder)):
        for entries, rows in part.items(id_column):
            collection.put(entries, rows, encoders=encoders or part.encoders())
            count += len(entries)
    return count


@dataclass(frozen=True, slots=True)
class Part:
    """Files that belong together: vectors by modality, and their rows; ``name`` is for rows without one."""

    vectors: Mapping[str, Path]
    metadata: Path | None
    name: str

    def encoders(self) -> dict[str, str]:
        """Encoder id by modality, where the files say so."""
        told = self._about().get(b"slimbind.encoders", b"{}")
        with self._explained():
            return {str(name): str(value) for name, value in json.loads(told).items()}

    def model(self) -> str:
        """The model that made the vectors, where the files say so."""
        with self._explained():
            return str(self._about().get(b"slimbind.model", b"").decode())

    def _about(self) -> Mapping[bytes, bytes]:
        return self._opened().schema_arrow.metadata or {} if self.metadata is not None else {}

    def _opened(self) -> Any:  # noqa: ANN401  (pyarrow has no types)
        _require()
        import pyarrow.parquet as pq

        with self._explained():
            return pq.ParquetFile(self.metadata)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What a file of others may be like, in plain words; Arrow's own errors are among these."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
            raise CollectionError(f"{self.metadata} cannot be read: {error}", hint="write it again") from error

    def items(self, id_column: str | None) -> Iterator[tuple[list[Entry], NDArray[np.float32]]]:
        """Entries and vectors, some thousands at a time."""
        arrays = {modality: _mapped(path) for modality, path in self.vectors.items()}
        counts = {str(path): len(arrays[modality]) for modality, path in self.vectors.items()}
        if self.metadata is not None:
            counts[str(self.metadata)] = self._opened().metadata.num_rows
        if len(set(counts.values())) != 1:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise CollectionError(f"files that belong together have different numbers of rows: {told}")
        start = 0
        for rows in self._rows(next(iter(counts.values()))):
            for modality, array in arrays.items():
                main = modality == next(iter(arrays))
                with self._explained():
                    # Of rows that are called alike the last one counts, as it would in another batch.
                    found = {
                        entry.id: (place, entry)
                        for place, row in enumerate(rows)
                        for entry in [_entry(row, modality, f"{self.name}-{start + place}", id_column, main)]
                    }
                places = [start + place for place, _ in found.values()]
                yield [entry for _, entry in found.values()], np.asarray(array[places], np.float32)
            start += len(rows)

    def _rows(self, count: int) -> Iterator[list[dict[str, Any]]]:
        if self.metadata is not None:
            batches = self._opened().iter_batches(_BATCH)
            while True:
                with self._explained():
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.to_pylist()
                if batch is None:
                    return
                yield rows
        for start in range(0, count, _BATCH):
            yield [{} for _ in range(start, min(start + _BATCH, count))]


def parts_of(folder: Path) -> list[Part]:
    """The parts of a folder, or of its subfolders.

    Raises:
        CollectionError: there are none.
    """
    places = [folder] if list(folder.glob("*_emb")) else sorted(folder.glob("*/"))
    parts = []
    for place in places:
        files: dict[int, dict[str, Path]] = {}
        for path in sorted([*place.glob("*_emb/*.npy"), *place.glob("metadata/*.parquet")]):
            if match := _NUMBER.search(path.name):
                files.setdefault(int(match[1]), {})[path.parent.name] = path
        for number, found in sorted(files.items()):
            metadata = found.pop("metadata", None)
            if found:
                # Pictures first: a text beside a picture is its caption, and is named after it.
                order = sorted(found, key=lambda name: (name != "img_emb", name))
                vectors = {_FOLDERS.get(name, name.removesuffix("_emb")): found[name] for name in order}
                name = str(number) if place == folder else f"{place.name}-{number}"
                parts.append(Part(vectors, metadata, name))
    if not parts:
        raise CollectionError(
            f"{folder} holds no vectors",
            hint="name a folder with img_emb/img_emb_0.npy and metadata/metadata_0.parquet",
        )
    return parts


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CollectionError(f"{path} cannot be read: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise CollectionError(f"{path} holds {array.dtype} {list(array.shape)}, not floats [n, dim]")
    return array


def _entry(row: dict[str, Any], modality: str, number: str, id_column: str | None, main: bool) -> Entry:
    if isinstance(row.get("id"), bytes) and isinstance(row.get("metadata"), str):  # one of ours
        told = {name: _text(row[name]) for name in ("id", "modality", "source", "hash")}
        return Entry(**told, metadata=json.loads(row["metadata"]), size=row["size"], mtime_ns=row["mtime_ns"])
    if id_column is not None and row.get(id_column) is None:
        raise UsageError(f"row {number} has no {id_column!r}", hint=f"its columns are {', '.join(sorted(row))}")
    column = id_column or next((name for name in _IDS if row.get(name) not in (None, "")), None)
    name = number if column is None else str(row[column])
    source = row.get("caption") if modality == "text" else row.get("image_path") or row.get("url")
    told = {key: value for key, value in ((key, _plain(value)) for key, value in row.items()) if value is not None}
    return Entry(name if main else f"{name}#{modality}", modality, str(source or name), told)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """As JSON can say it; None where it cannot."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, bytes):
        return None
    return str(value).replace("\0", "")  # dates and the like as ISO text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _require() -> None:
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow, which reads and writes parquet files,", extra="parquet")
