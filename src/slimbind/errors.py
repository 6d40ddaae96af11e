"""Every error slimbind raises on purpose.

    SlimbindError
    ├── UsageError              a wrong argument: what was got, what is allowed
    ├── MissingExtraError       an optional dependency is not installed: which pip command mends it
    ├── MediaError              one item could not be decoded or preprocessed
    │   └── LimitError          the item is larger than the limits of this call
    ├── ItemsError              some items of a batch failed; carries what succeeded
    ├── DatasetError            a data set is of no known kind, damaged, or not what it says it is
    ├── ArtifactError           a folder is no artifact, or lacks what was asked for
    │   ├── ArtifactCorruptError    a file is missing, cut or changed (checksum)
    │   └── ArtifactVersionError    written by a newer slimbind
    ├── CheckpointError         a checkpoint has the wrong keys or shapes
    │   └── UnsafeCheckpointError   a pickle that wants to run code
    ├── HubError                a download failed or does not match its checksum
    │   └── OfflineError        the network is needed but was forbidden
    ├── EngineError             the inference engine could not open or run a tower
    ├── DriftError              an exported tower says something else than its reference
    └── CollectionError         a collection is missing, damaged, in use, or does not fit the vectors

The first line of a message says what was got and why it is wrong; ``hint`` says what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SlimbindError(Exception):
    """Base of all errors raised on purpose; ``message`` is the cause, ``hint`` the mend."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled as a call with `args`, which most constructors here do not take; an error that cannot
        # be unpickled hangs a pool of processes.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[SlimbindError], args: tuple[Any, ...], state: dict[str, Any]) -> SlimbindError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(SlimbindError):
    """An argument has a value that is not allowed."""

    @classmethod
    def unknown(cls, what: str, got: object, allowed: Iterable[str], *, hint: str = "") -> UsageError:
        """Build the message for a failed look-up: the value got and the values allowed."""
        return cls(f"unknown {what} {got!r}; allowed: {', '.join(sorted(allowed)) or '(none)'}", hint=hint)


class MissingExtraError(SlimbindError):
    """An optional dependency is needed; ``extra`` names the pip extra that brings it."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} is not installed", hint=f'pip install "slimbind[{extra}]"')
        self.extra = extra


class MediaError(SlimbindError):
    """One item could not be turned into an array; ``item`` names it."""

    def __init__(self, item: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{item}: {reason}", hint=hint)
        self.item = item
        self.reason = reason


class LimitError(MediaError):
    """An item exceeds a limit of this call (bytes, pixels, seconds, frames, characters)."""


class ItemsError(SlimbindError):
    """Some items of a batch failed; the rest was done and is carried along.

    ``errors`` maps the position of each bad item to its error; ``vectors`` ``[m, dim]`` are the embeddings of the
    good ones, whose positions are ``indices`` ``[m]``.
    """

    def __init__(
        self, errors: Mapping[int, SlimbindError], *, vectors: NDArray[np.float32], indices: Sequence[int]
    ) -> None:
        first = next(iter(errors.values()))
        super().__init__(
            f"{len(errors)} of {len(errors) + len(indices)} items failed; first: {first}",
            hint="the rest was embedded: see .vectors, .indices and .errors",
        )
        self.errors = dict(errors)
        self.vectors = vectors
        self.indices = list(indices)


class DatasetError(SlimbindError):
    """A data set is of no known kind, damaged, or not what it says it is."""


class ArtifactError(SlimbindError):
    """A folder is not a slimbind artifact, or lacks the modality asked for."""


class ArtifactCorruptError(ArtifactError):
    """A file of an artifact is missing, cut short or changed."""


class ArtifactVersionError(ArtifactError):
    """The artifact was written by a newer slimbind than this one."""


class CheckpointError(SlimbindError):
    """A checkpoint's keys or shapes do not belong to a known model."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle contains more than tensors and was not loaded."""


class HubError(SlimbindError):
    """A download failed, was cut, or does not match its checksum."""


class OfflineError(HubError):
    """The network would be needed, but offline mode is on."""


class EngineError(SlimbindError):
    """The inference engine could not open or run a tower."""


class DriftError(SlimbindError):
    """An exported tower's embeddings differ from its reference by more than is allowed."""


class CollectionError(SlimbindError):
    """A collection is missing, damaged or in use, the disk is full, or vectors do not belong to it."""
