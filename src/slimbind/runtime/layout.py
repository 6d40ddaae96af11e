"""How a tower shares out the cores: so many forward passes side by side, so many threads in each.

One pass on all cores ends soonest. Several passes side by side, each on its own cores, get more done: threads of one
pass wait for each other after every layer, and the shorter a layer, the larger the part of the time that is waiting.
A sentence is a dozen tokens, so that layers are short whatever they weigh: texts get a pass per core. Small towers of
all other modalities get two threads a pass, and large ones as many as still help. A batch of one caller is split over
the passes. Measured on two cores (``benchmarks/threads.py``); for more, this is what follows from it.

The weights are held once in either case; each pass beside the first has activations of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimbind.artifact import TowerEntry
from slimbind.errors import UsageError

# Bytes of weights from which a tower counts as large.
LARGE = 64 << 20
SMALL_THREADS = 2  # of a pass of a small tower
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


def choose(
    engine: str, modality: str, weights: int, cores: int, *, asked: int | None = None, on_card: bool = False
) -> Layout:
    """The layout of one tower.

    Args:
        engine: what runs it; PyTorch has one number of threads per process and so runs one pass at a time.
        modality: what it embeds.
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
    if modality == "text":
        threads, why = 1, "sentences are short"
    else:
        threads, kind = (SMALL_THREADS, "small") if weights < LARGE else (MOST_THREADS, "large")
        why = f"a {kind} tower: {weights / (1 << 20):.0f} MiB of weights"
    streams = min(MOST_STREAMS, max(1, cores // threads))
    return Layout(streams, cores // streams, why)


def of_tower(
    entry: TowerEntry, modality: str, cores: int, *, asked: int | None = None, on_card: bool = False
) -> Layout:
    """``choose`` for a tower as its artifact lists it; raises the same."""
    weights = max(file.bytes for file in entry.files)
    return choose(entry.engine, modality, weights, cores, asked=asked, on_card=on_card)


def rows_of_pass(rows: int, most: int, streams: int) -> int:
    """Into batches of how many rows ``rows`` are cut, so that no pass is idle: ``most``, or less where there are few.

    It depends on nothing else: the same call gets the same batches, and so the same bits, whoever calls beside it.
    """
    return max(1, min(most, -(-rows // streams)))
