"""How a tower wants its input prepared: small frozen records, one kind per modality, stored in the manifest.

The defaults are ImageBind's. A record fully determines the preprocessing: two artifacts with equal records receive
equal arrays, whatever engine runs them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoSpec(_Spec):
    """How a video becomes views ``[clips * crops, 3, frames, size, size]``."""

    clips: int = Field(5, ge=1)
    clip_seconds: float = Field(2.0, gt=0)
    frames: int = Field(2, ge=1)
    crops: Literal[1, 3] = 3


class ImageSpec(_Spec):
    """Shorter side to ``resize``, centre crop ``size``, then ``(x / 255 - mean) / std``; ``[1, 3, size, size]``."""

    kind: Literal["image"] = "image"
    size: int = Field(224, ge=1)
    resize: int = Field(224, ge=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    video: VideoSpec = VideoSpec()


class TextSpec(_Spec):
    """Token ids ``[length]``, at most ``context`` long, start and end tokens included, unpadded.

    ``clip-bpe``: CLIP's cleaning (ftfy, HTML unescaped twice, white space folded, lower case) and byte-pair encoding.
    ``wordpiece``: BERT's uncased tokens. ``tokenizer`` is a file in the artifact's text folder.
    """

    kind: Literal["clip-bpe", "wordpiece"] = "clip-bpe"
    tokenizer: str = Field("tokenizer.json", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    context: int = Field(77, ge=3)
    pad_id: int = 0


class AudioSpec(_Spec):
    """``clips`` log-mel spectrograms ``[clips, 1, mel_bins, frames]`` of ``clip_seconds`` each, spread evenly."""

    kind: Literal["mel"] = "mel"
    sample_rate: int = Field(16000, ge=1)
    clips: int = Field(3, ge=1)
    clip_seconds: float = Field(2.0, gt=0)
    mel_bins: int = Field(128, ge=1)
    frames: int = Field(204, ge=1)
    mean: float = -4.268
    std: float = 9.138


class DepthSpec(_Spec):
    """Depth to disparity, clamped to ``minimum..maximum`` and divided by ``maximum``; ``[1, 1, size, size]``.

    ``baseline`` (metres) and ``focal`` (pixels) are those of the camera assumed where an item does not bring its own:
    a Kinect v1.
    """

    kind: Literal["disparity"] = "disparity"
    size: int = Field(224, ge=1)
    minimum: float = Field(0.01, gt=0)
    maximum: float = Field(75.0, gt=0)
    baseline: float = Field(0.075, gt=0)
    focal: float = Field(518.86, gt=0)


class ThermalSpec(_Spec):
    """One channel scaled to 0..1, by its own range or a fixed one in kelvin; ``[1, 1, size, size]``."""

    kind: Literal["thermal"] = "thermal"
    size: int = Field(224, ge=1)
    kelvin_range: tuple[float, float] | None = None


class ImuSpec(_Spec):
    """Six channels resampled to ``rate`` Hz and ``samples`` samples; ``[1, 6, samples]``."""

    kind: Literal["imu"] = "imu"
    rate: float = Field(200.0, gt=0)
    samples: int = Field(2000, ge=1)


PreprocessSpec = Annotated[
    ImageSpec | TextSpec | AudioSpec | DepthSpec | ThermalSpec | ImuSpec, Field(discriminator="kind")
]
