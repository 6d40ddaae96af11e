"""The models slimbind knows by name: what they are, on what terms, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class KnownModel:
    """One model of the catalogue.

    Args:
        name: what to call it on the command line.
        family: its architecture.
        modalities: what it embeds.
        dim: length of an embedding.
        license: SPDX identifier, or ``unknown`` where its publisher states none for the weights.
        bytes: size of the weights as published.
        source: where it comes from: ``packaged``, ``hf://org/repo`` or ``https://...``.
        sha256: of the one file at an ``https`` source.
        summary: one line for people.
    """

    name: str
    family: str
    modalities: tuple[str, ...]
    dim: int
    license: str
    bytes: int
    source: str
    sha256: str = ""
    summary: str = ""

    @property
    def packaged(self) -> bool:
        """Whether it comes with slimbind and needs no network."""
        return self.source == PACKAGED

    @property
    def needs_split(self) -> bool:
        """Whether it is a checkpoint that ``slimbind split`` has to take apart first."""
        return not self.packaged


PACKAGED = "packaged"
IMAGEBIND_URL = "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth"


def _clip(name: str, source: str, dim: int, parameters: int, license: str, summary: str) -> KnownModel:
    return KnownModel(
        name,
        family="clip",
        modalities=("vision", "text"),
        dim=dim,
        license=license,
        bytes=4 * parameters,
        source=f"hf://{source}",
        summary=summary,
    )


_MODELS = (
    KnownModel(
        "mini",
        family="mini",
        modalities=("vision", "text"),
        dim=384,
        license="Apache-2.0",
        bytes=0,
        source=PACKAGED,
        summary="small, trained for everyday pictures, works offline",
    ),
    KnownModel(
        "imagebind-huge",
        family="imagebind",
        modalities=("vision", "text", "audio", "depth", "thermal", "imu"),
        dim=1024,
        license="CC-BY-NC-4.0",
        bytes=4_803_584_173,
        source=IMAGEBIND_URL,
        sha256="d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157",
        summary="six senses in one space; not for commercial use",
    ),
    _clip("clip-vit-b-32", "openai/clip-vit-base-patch32", 512, 151_277_313, "unknown", "OpenAI's CLIP, the small one"),
    _clip(
        "clip-vit-l-14", "openai/clip-vit-large-patch14", 768, 427_616_513, "unknown", "OpenAI's CLIP, the large one"
    ),
    _clip(
        "openclip-vit-b-32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 512, 151_277_313, "MIT", "CLIP, trained openly"
    ),
    _clip(
        "openclip-vit-h-14",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        1024,
        986_109_441,
        "MIT",
        "CLIP, trained openly, the largest",
    ),
)


def catalog() -> tuple[KnownModel, ...]:
    """The known models, the packaged one first."""
    return tuple(replace(model, bytes=_size(model.name)) if model.packaged else model for model in _MODELS)


def find(name: str) -> KnownModel | None:
    """The known model of that name, or None."""
    return next((model for model in _MODELS if model.name == name), None)


def packaged_folder(name: str) -> Path:
    """Where a packaged model lies."""
    return Path(__file__).parents[1] / "models" / name


def _size(name: str) -> int:
    return sum(path.stat().st_size for path in packaged_folder(name).rglob("*") if path.is_file())
