"""An artifact whose towers come from two others: to see what making a single tower smaller costs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slimbind.artifact import MANIFEST, Artifact
from slimbind.errors import UsageError


@contextmanager
def mixed(towers: Mapping[str, Artifact]) -> Iterator[Artifact]:
    """A temporary artifact with each modality's tower from the artifact named for it; gone at the end.

    Towers are not copied where the system can link folders.

    Args:
        towers: modality -> the artifact that its tower is taken from.

    Raises:
        UsageError: there are none, or they are of different models.
        ArtifactError: one lacks the modality.
    """
    if not towers:
        raise UsageError("no tower was named", hint="give at least one modality and the artifact it comes from")
    first = next(iter(towers.values())).manifest
    for artifact in towers.values():
        ours = (artifact.manifest.model.id, artifact.manifest.embedding_dim)
        if ours != (first.model.id, first.embedding_dim):
            raise UsageError(f"towers of {first.model.id} and {ours[0]} say different things", hint="mix one model's")
    entries = {modality: artifact.tower(modality) for modality, artifact in towers.items()}
    manifest = first.model_copy(update={"towers": entries})
    with tempfile.TemporaryDirectory(prefix="slimbind-mixed-") as name:
        folder = Path(name)
        for modality, artifact in towers.items():
            _link(artifact.folder / modality, folder / modality)
        (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
        yield Artifact.open(folder)


def _link(source: Path, destination: Path) -> None:
    try:
        os.symlink(source.resolve(), destination, target_is_directory=True)
    except OSError:  # Windows allows links to some users only
        shutil.copytree(source, destination)
