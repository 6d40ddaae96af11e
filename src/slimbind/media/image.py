"""Images to arrays: decode, turn upright, flatten to RGB, scale, crop and normalise as CLIP and ImageBind do.

File types: JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, PPM (whatever its name says, the content decides). In memory:
PIL images; arrays ``[h, w, 3]``, ``[h, w, 4]``, ``[h, w, 1]`` or ``[h, w]`` of uint8, uint16, or float in 0..1.
Units: sRGB. Out: float32 ``[1, 3, size, size]``, ``(value / 255 - mean) / std``.

What becomes of the odd ones: EXIF orientation is applied; transparency is laid on white; of an animation the first
frame counts; 16-bit grey is scaled to 8 bit; CMYK is converted without its profile, as the reference does; colour
profiles are not applied. A file that ends early is an error, never a half grey picture.

JPEG's cheap reduced decoding (``Image.draft``) is not used: measured (``benchmarks/media.py``), it is three times as
fast for twelve megapixels, but moves pixels by up to five levels of 256, twenty times the tolerance.
"""

from __future__ import annotations

import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimbind.errors import MediaError, UsageError
from slimbind.media.geometry import check_pixels, resize_and_crop
from slimbind.media.limits import Limits
from slimbind.media.source import Source, decoding, describe, is_file_like, open_source
from slimbind.media.spec import ImageSpec

# What may be decoded. Pillow knows more, among them formats that start other programs (EPS) or that nobody has.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM")

_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KNOWN = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF and PPM are read"


class ImagePreprocessor:
    """Still images, and videos where PyAV is installed, for one ``ImageSpec``. Safe to call from several threads.

    Returns ``[1, 3, size, size]`` for a still and ``[views, 3, frames, size, size]`` for a video, float32.
    A video is recognised by its content (see ``slimbind.media.video``), or given as ``(frames, fps)`` with frames
    ``[t, h, w, 3]`` uint8.

    Raises (on call):
        MediaError: the item is no readable image or video. LimitError: it is too large.
        MissingExtraError: it is a video, and PyAV is not installed.
    """

    def __init__(self, spec: ImageSpec, limits: Limits) -> None:
        if spec.size > spec.resize:
            raise UsageError(
                f"cannot crop {spec.size} pixels out of {spec.resize}",
                hint="an ImageSpec needs size <= resize",
            )
        self.spec = spec
        self.limits = limits
        self._mean = np.asarray(spec.mean, np.float32)[:, None, None]
        self._std = np.asarray(spec.std, np.float32)[:, None, None]

    def __call__(self, item: object) -> NDArray[np.float32]:
        """One item to ``[1, 3, size, size]``, a video to ``[views, 3, frames, size, size]``; see the class."""
        if isinstance(item, Image.Image):
            check_pixels(describe(item), *item.size, self.limits)
            return self.still(item, describe(item))
        if isinstance(item, tuple):
            from slimbind.media import video

            return video.views_of_frames(item, self.spec, self.limits)
        if isinstance(item, np.ndarray):
            return self.still(_from_array(item, self.limits), describe(item))
        if not is_file_like(item):
            raise MediaError(
                describe(item),
                f"a {type(item).__name__} is no image",
                hint="give a path, bytes, a file object, a PIL image or an array",
            )
        with open_source(item, self.limits) as source:
            from slimbind.media import video

            if video.is_video(source.head(video.HEAD), source.suffix):
                return video.views_of_file(source, self.spec, self.limits)
            with open_image(source, self.limits) as image:
                return self.still(image, source.name)

    def still(self, image: Image.Image, name: str) -> NDArray[np.float32]:
        """Preprocess one opened image to ``[1, 3, size, size]``."""
        spec = self.spec
        with decoding(name, "decode the image", hint="the file is damaged or incomplete; save it again"):
            flat = to_rgb(upright(image), name)
            pixels = np.asarray(resize_and_crop(flat, spec.resize, spec.size, _RESAMPLE[spec.interpolation]))
        # In place, and in this order: it rounds as the reference does.
        out = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
        out /= np.float32(255)
        out -= self._mean
        out /= self._std
        return out[None]


def open_image(source: Source, limits: Limits) -> Image.Image:
    """Read an image's header and compare its size with ``limits``; pixels are decoded later.

    Pillow's own pixel limit is one number for the whole process, so it is neither used nor changed here.

    Raises:
        MediaError: no known image format, or a damaged header. LimitError: too many pixels.
    """
    head = source.head(64)
    size = _webp_size(head)  # Pillow reserves memory for the whole WebP canvas while it opens it
    if size is not None:
        check_pixels(source.name, *size, limits)
    with decoding(source.name, "read the image's header", hint=f"the file is damaged; {_KNOWN}"):
        image = _identify(source.file, head, source.name)
        if image is None:
            raise MediaError(source.name, f"is no image ({_guess(head)})", hint=_KNOWN)
        check_pixels(source.name, *image.size, limits)
        return image


def _identify(file: IO[bytes], head: bytes, name: str) -> Image.Image | None:
    Image.preinit()
    if any(format_ not in Image.OPEN for format_ in FORMATS):
        Image.init()
    for format_ in FORMATS:
        if format_ not in Image.OPEN:  # a Pillow built without it
            continue
        factory, accepts = Image.OPEN[format_]
        accepted = accepts(head) if accepts else True
        if isinstance(accepted, str):  # the format is right, but this Pillow cannot read the variant
            raise MediaError(name, accepted, hint="save it as PNG or JPEG")
        if not accepted:
            continue
        file.seek(0)
        try:
            return factory(file, "")  # type: ignore[no-any-return,no-untyped-call,unused-ignore]
        except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error) as error:
            raise MediaError(
                name, f"starts like {format_}, but its header is damaged: {error}", hint="save it again"
            ) from error
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _guess(head: bytes) -> str:
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return "it is HEIC, as telephones write it: convert it to JPEG"
    if all(byte in b"\t\n\r\f\x1b" or byte >= 0x20 for byte in head):
        return "it looks like text"
    return f"it starts with {head[:8].hex(' ')}"


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; an unreadable EXIF block counts as none."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make a picture unreadable
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Flatten any mode to 8-bit RGB, transparency on white.

    Raises:
        MediaError: 32-bit pixels without a defined white.
    """
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if mode.startswith("I;16") or mode == "I":
        wide = np.asarray(image)
        if wide.size and (wide.min() < 0 or wide.max() > 0xFFFF):
            raise MediaError(name, "has 32-bit grey values above 65535", hint="save it with 8 or 16 bits a channel")
        image = Image.fromarray(_to_8_bit(wide))
    elif mode == "F":
        raise MediaError(
            name, "has floating-point pixels, of which nobody says what is white", hint="save it with 8 bits"
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getextrema()[0] == 255:
            return layer.convert("RGB")
        flat = Image.new("RGBA", layer.size, "white")
        flat.alpha_composite(layer)
        return flat.convert("RGB")
    return image.convert("RGB")


def _to_8_bit(wide: NDArray[Any]) -> NDArray[np.uint8]:
    return ((wide.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _from_array(array: NDArray[Any], limits: Limits) -> Image.Image:
    name = describe(array)
    plane = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if plane.ndim not in (2, 3) or (plane.ndim == 3 and plane.shape[2] not in (3, 4)) or 0 in plane.shape:
        hint = "height first, channels last: [h, w, 3], [h, w, 4] or [h, w]"
        raise MediaError(name, f"an image array cannot have the shape {array.shape}", hint=hint)
    check_pixels(name, plane.shape[1], plane.shape[0], limits)
    if plane.dtype == np.uint16:
        plane = _to_8_bit(plane)
    elif np.issubdtype(plane.dtype, np.floating):
        low, high = float(plane.min()), float(plane.max())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise MediaError(
                name,
                f"float pixels run from {low} to {high}",
                hint="scale them to 0..1, or pass uint8 0..255",
            )
        plane = np.rint(plane * 255).astype(np.uint8)
    elif plane.dtype != np.uint8:
        raise MediaError(name, f"pixels of type {plane.dtype}", hint="use uint8, uint16, or float in 0..1")
    return Image.fromarray(np.ascontiguousarray(plane))
