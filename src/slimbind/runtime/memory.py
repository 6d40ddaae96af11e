"""What the process holds in memory, and how to give it back. Linux and glibc know how; elsewhere these do nothing.

Two things keep memory after it has been freed, or double it while in use:

- Engines repack weights into a layout of their own. The file they were read from stays mapped and its pages, read once,
  stay resident: twice the weights. ``drop_file_pages`` lets go of those pages; they are clean, so nothing is lost, and
  the few that are still needed (an embedding table) come back from the page cache by themselves.
- glibc keeps freed memory in its arenas. ``trim_heap`` hands it back to the system.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Lock, Thread

from slimbind.runtime.forks import renew_after_fork

_MADV_DONTNEED = 4
_PAGE_KIB = 1024
_DROP_EVERY = 0.05  # seconds; weights are read at a gigabyte per second or so
_M_MMAP_THRESHOLD = -3


def resident_bytes() -> int | None:
    """Memory the process holds, file-mapped pages included (RSS), in bytes; None where it cannot be read."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Rss:"):
                    return int(line.split()[1]) * _PAGE_KIB
    except OSError:
        pass
    return None


def trim_heap() -> None:
    """Give memory that was freed back to the system."""
    libc = _libc()
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@contextmanager
def returning_blocks() -> Iterator[None]:
    """While weights are rewritten: blocks of some MiB go back to the system as soon as they are freed.

    By default glibc keeps freed blocks of up to 32 MiB for later, and a tower that is rewritten layer by layer leaves
    holes of about its own size. Costs time where such blocks come and go (about a tenth of a forward pass).
    """
    libc = _libc()
    known = libc is not None and hasattr(libc, "mallopt")
    if libc is not None and known:
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
    try:
        yield
    finally:
        if libc is not None and known:
            libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # what glibc's own adapting ends at


def drop_file_pages(files: Iterable[Path]) -> int:
    """Let go of the resident pages of mapped ``files``, which must not be written to while mapped.

    Only shared or never written private mappings of files are touched: dropping their pages cannot change what the
    process reads. Returns the bytes of address space that were let go of (0 where the system cannot do it).
    """
    libc = _libc()
    if libc is None or not hasattr(libc, "madvise"):
        return 0
    real = {str(file.resolve()) for file in files}  # a cache of downloads keeps files elsewhere, behind links
    with _addresses.lock:
        return _drop(libc, real)


@contextmanager
def unmapping() -> Iterator[None]:
    """Around whatever may end the mapping of a file whose pages are dropped: a session's end, a model's.

    Between the look at where a file is mapped and the dropping, the mapping could go and another thread be given its
    addresses; what it has written there by then would be gone.
    """
    with _addresses.lock:
        yield


class _Addresses:
    """Who may look for mappings and rely on them, or end them: one at a time."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """See ``forks``."""
        self.lock = Lock()


_addresses = _Addresses()


def _drop(libc: ctypes.CDLL, real: set[str]) -> int:
    found = [mapping for mapping in _mappings() if mapping[3] in real]
    # A private mapping that may be written to (PyTorch has all weights in one) could hold changed pages, and dropping
    # those would lose the changes.
    changed = _changed() if any("w" in access for _, _, access, _ in found) else set()
    dropped = 0
    for start, end, access, _ in found:
        if "w" not in access or ("p" in access and start not in changed):
            if libc.madvise(start, end - start, _MADV_DONTNEED) == 0:
                dropped += end - start
    return dropped


@contextmanager
def dropping_pages(files: Iterable[Path]) -> Iterator[None]:
    """Let go of the pages of ``files`` again and again while an engine reads them to repack what is in them.

    Otherwise the highest use of memory is twice the weights: all that was read, and all that was made of it.
    """
    known = tuple(files)
    done = Event()

    def drop() -> None:
        while not done.wait(_DROP_EVERY):
            drop_file_pages(known)

    worker = Thread(target=drop, name="slimbind-memory", daemon=True)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()


def mapped_files(folder: Path) -> set[str]:
    """Paths of the files below ``folder`` that this process has mapped."""
    prefix = f"{folder.resolve()}/"
    return {path for _, _, _, path in _mappings() if path.startswith(prefix)}


def _mappings() -> list[tuple[int, int, str, str]]:
    """(start, end, access, path) of every mapping of a file."""
    found = []
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.rstrip("\n").split(maxsplit=5)
                if len(fields) == 6 and fields[5].startswith("/"):
                    start, _, end = fields[0].partition("-")
                    found.append((int(start, 16), int(end, 16), fields[1], fields[5]))
    except OSError:
        return []
    return found


def _changed() -> set[int]:
    """Where the mappings begin that have pages of their own beside the file's; all of them, if it cannot be told."""
    found: set[int] = set()
    start = 0
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                name, _, rest = line.partition(" ")
                if name == "Anonymous:" and int(rest.split()[0]):
                    found.add(start)
                elif not name.endswith(":"):
                    start = int(name.partition("-")[0], 16)
    except OSError:
        return {start for start, _, _, _ in _mappings()}
    return found


@cache
def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None
    if hasattr(libc, "madvise"):
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        libc.madvise.restype = ctypes.c_int
    return libc
