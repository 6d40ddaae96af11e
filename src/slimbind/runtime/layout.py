"""How a tower shares out the cores: so many forward passes side by side, so many threads in each.

One pass on all cores ends soonest. Several passes side by side, each on its own cores, get more done: threads of one
pass wait for each other after every layer, and the shorter a layer, the larger the part of the time that is waiting.
So small towers, whose layers take microseconds, get a pass per core, and large ones as many threads per pass as still
help. Whoever embeds a single batch alone loses nothing by it: the batch is split over the passes.

The weights are held once in either case; each pass beside the first has activations of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimbind.artifact import TowerEntry
from slimbind.errors import UsageError

# Bytes of weights from which a tower counts as large.
LARGE = 64 << 20
# More passes than this hold more activations than they are worth; more threads than this mostly wait for each other.
MOST_STREAMS = 8
MOST_THREADS = 8


@dataclass(frozen=True)
class Layout:
    """What was chosen.

    Args:
        streams: forward passes that run at the same time.
        threads: threads of each. ``streams * threads`` is never more than the cores there are.
        why: the reason, for people.
    """

    streams: int
    threads: int
    why: str

    def __str__(self) -> str:
        passes = "1 forward pass at a time" if self.streams == 1 else f"{self.streams} forward passes side by side"
        return f"{passes}, {self.threads} thread{'s' * (self.threads > 1)} each ({self.why})"


def choose(engine: str, weights: int, cores: int, *, asked: int | None = None, on_card: bool = False) -> Layout:
    """The layout of one tower.

    Args:
        engine: what runs it; PyTorch has one number of threads per process and so runs one pass at a time.
        weights: bytes of the largest of its files.
        cores: how many the model may use.
        asked: so many passes, whatever would be chosen.
        on_card: it runs on a graphics card.

    Raises:
        UsageError: more passes are asked for than there are cores, or than the engine can run.
    """
    if cores < 1:
        raise ValueError(f"{cores} cores")
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= cores):
        raise UsageError(f"streams is {asked!r}", hint=f"give 1 to {cores}, the threads there are, or leave it out")
    if engine == "torch":
        if asked is not None and asked > 1:
            raise UsageError(f"streams is {asked}", hint="PyTorch runs one forward pass at a time: leave it out")
        if on_card:  # the cores are left to decode
            return Layout(1, 1, "the graphics card does the work")
        return Layout(1, cores, "PyTorch shares its threads")
    if asked is not None:
        return Layout(asked, cores // asked, "asked for")
    if cores == 1:
        return Layout(1, 1, "one core")
    size = f"{weights / (1 << 20):.0f} MiB of weights"
    if weights < LARGE:
        streams = min(cores, MOST_STREAMS)
        return Layout(streams, cores // streams, f"a small tower: {size}")
    streams = min(MOST_STREAMS, max(1, cores // MOST_THREADS))
    return Layout(streams, cores // streams, f"a large tower: {size}")


def of_tower(entry: TowerEntry, cores: int, *, asked: int | None = None, on_card: bool = False) -> Layout:
    """``choose`` for a tower as its artifact lists it; raises the same."""
    return choose(entry.engine, max(file.bytes for file in entry.files), cores, asked=asked, on_card=on_card)


def rows_of_pass(rows: int, most: int, streams: int) -> int:
    """Into batches of how many rows ``rows`` are cut, so that no pass is idle: ``most``, or less where there are few.

    It depends on nothing else: the same call gets the same batches, and so the same bits, whoever calls beside it.
    """
    return max(1, min(most, -(-rows // streams)))
