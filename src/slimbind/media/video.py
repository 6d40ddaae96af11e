"""Video to views: clips x crops, each of a few frames, as ImageBind's reference takes them.

File types: MP4, MOV, MKV, WebM, AVI, MPEG, FLV, Ogg, whatever FFmpeg decodes in them (extra ``video``, PyAV). In
memory: ``(frames, fps)`` with frames ``[t, h, w, 3]`` uint8. Out: float32 ``[views, 3, frames, size, size]``,
``(value / 255 - mean) / std``, views in the order clip 0 crop 0, clip 0 crop 1 ...

By default five clips of two seconds start at ``i * (duration - 2 s) / 5``; of each the first and the last frame are
taken; the shorter side becomes 224 pixels (bilinear, without smoothing) and three squares are cut: left, centre,
right, or top, centre, bottom. Clips that are all the same (video of two seconds or less) and crops that are all the
same (square video) are given once, which is the same embedding.

Only the frames wanted, and those they depend on, are decoded, and one is held at a time. Frames are found by time:
of a variable-rate video the picture on screen at that moment counts. Rotation metadata is applied; pixel aspect
ratio is not, as in the reference. Sound is ignored. The file is read through the opened object only: a playlist
cannot make FFmpeg open another file or an address.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import LimitError, MediaError, MissingExtraError
from slimbind.media.audio import clip_spans
from slimbind.media.geometry import check_pixels
from slimbind.media.limits import Limits
from slimbind.media.source import Source, decoding, describe
from slimbind.media.spec import ImageSpec, VideoSpec
from slimbind.modalities import VIDEO_SUFFIXES

HEAD = 192
_DEMUXERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
_STILLS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM")
_STILL_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix")
_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_STARTS = (b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"FLV\x01", b"OggS")
_LATE = Fraction(1, 4)  # of a frame: time stamps in milliseconds are not exact
_WORTH_A_SEEK = 4  # frames; nearer ones are cheaper to decode through
_BACK_SECONDS = (0, 2, 20)  # how much earlier to look for a key frame, where an index points too late
_MEND = "the file is damaged or of an unknown kind; convert it, for instance with ffmpeg, to .mp4"


def is_video(head: bytes, suffix: str) -> bool:
    """Whether a file is a video, by its first bytes (``HEAD`` of them), or by its name where they say nothing."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in _STILL_BRANDS
    if head[4:8] in _BOXES or head.startswith(_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    if head[:1] == head[188:189] == b"G":  # MPEG transport stream: a mark at the start of each packet of 188 bytes
        return True
    is_still = head.startswith(_STILLS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    return suffix in VIDEO_SUFFIXES and not is_still


def views_of_file(source: Source, spec: ImageSpec, limits: Limits) -> NDArray[np.float32]:
    """Decode and prepare the views ``[views, 3, frames, size, size]`` of a video file.

    Raises:
        MissingExtraError: PyAV is not installed.
        MediaError: damaged, or without pictures. LimitError: too long, too many frames or pixels.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("PyAV, which reads video,", extra="video") from None
    with decoding(source.name, "decode the video", hint=_MEND):
        source.file.seek(0)
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}
        with av.open(source.file, mode="r", options=options, metadata_errors="replace") as container:
            reader = _Reader(container, source.name, limits)
            return _views(reader, spec)


def views_of_frames(item: tuple[Any, ...], spec: ImageSpec, limits: Limits) -> NDArray[np.float32]:
    """Prepare the views of ``(frames [t, h, w, 3] uint8, frames per second)``.

    Raises:
        MediaError: another shape, type or rate. LimitError: too long, too many frames or pixels.
    """
    name = describe(item)
    frames = item[0] if item else None
    rate = item[1] if len(item) == 2 else None
    if not (isinstance(rate, int | float | Fraction | np.number) and 0 < rate < math.inf) or not isinstance(
        frames, np.ndarray
    ):
        raise MediaError(name, "is no (frames, fps) pair", hint="give frames [t, h, w, 3] uint8 and a rate above 0")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
        raise MediaError(
            name,
            f"video frames cannot be {frames.dtype} of shape {frames.shape}",
            hint="give uint8 [t, h, w, 3]",
        )
    check_pixels(name, frames.shape[2], frames.shape[1], limits)
    return _views(_Frames(frames, Fraction(float(rate)), name, limits), spec)


def frame_times(length: Fraction, rate: Fraction, spec: VideoSpec) -> list[list[Fraction]]:
    """When each clip's frames are shown: ``clips`` lists of ``frames`` times in seconds.

    ``length`` is the duration in seconds and ``rate`` the frames per second. A clip covers the frames that begin in
    it; of these, ``frames`` are taken evenly, the first and the last among them.
    """
    total = max(1, round(length * rate))
    clips = []
    for start, stop in clip_spans(float(Fraction(total) / rate), spec.clips, spec.clip_seconds):
        first = min(math.ceil(float(rate) * start), total - 1)
        end = min(math.ceil(float(rate) * stop), total)
        inside = max(1, end - first)
        picks = [first + index * (inside - 1) // max(1, spec.frames - 1) for index in range(spec.frames)]
        clips.append([pick / rate for pick in picks])
    return clips


def _views(reader: _Reader | _Frames, spec: ImageSpec) -> NDArray[np.float32]:
    clips = frame_times(reader.length, reader.rate, spec.video)
    if all(clip == clips[0] for clip in clips):
        clips = clips[:1]
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    crops: dict[Fraction, NDArray[np.float32]] = {}
    for time in sorted({time for clip in clips for time in clip}):  # forward only, so that little is decoded twice
        squares = _crop(reader.picture(time), spec)
        crops[time] = ((squares / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    if len({squares.shape for squares in crops.values()}) > 1:
        raise MediaError(reader.name, "changes its picture format on the way", hint="convert it to one size")
    return np.concatenate([np.stack([crops[time] for time in clip], axis=2) for clip in clips])


def _crop(picture: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """Squares ``[crops, size, size, 3]`` of one picture ``[h, w, 3]``, in 0..255, shorter side scaled to ``resize``."""
    height, width = picture.shape[:2]
    short, size = spec.resize, spec.size
    if width < height:
        tall, wide = math.floor(height / width * short), short
    else:
        tall, wide = short, math.floor(width / height * short)
    top, left = math.ceil((tall - size) / 2), math.ceil((wide - size) / 2)
    corners = [(top, left)]
    if spec.video.crops == 3:
        corners = [(0, left), (top, left), (tall - size, left)] if tall > wide else []
        corners = corners or [(top, 0), (top, left), (top, wide - size)]
        corners = list(dict.fromkeys(corners))
    return np.stack([_scale(picture, (tall, wide), corner, size) for corner in corners])


def _scale(
    picture: NDArray[np.uint8], scaled: tuple[int, int], corner: tuple[int, int], size: int
) -> NDArray[np.float32]:
    """A square of the picture scaled bilinearly to ``scaled``, computing nothing outside the square."""
    y0, y1, fy = _taps(picture.shape[0], scaled[0], corner[0], size)
    x0, x1, fx = _taps(picture.shape[1], scaled[1], corner[1], size)
    fy, fx = fy[:, None, None], fx[None, :, None]
    upper = picture[y0[:, None], x0] * (1 - fx) + picture[y0[:, None], x1] * fx
    lower = picture[y1[:, None], x0] * (1 - fx) + picture[y1[:, None], x1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, dtype=np.float32)


def _taps(length: int, scaled: int, start: int, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Left and right neighbour of ``count`` scaled positions from ``start``, and the weight of the right one."""
    at = (np.arange(start, start + count) + 0.5) * (length / scaled) - 0.5
    at = np.clip(at, 0, length - 1)
    left = np.floor(at).astype(np.intp)
    return left, np.minimum(left + 1, length - 1), (at - left).astype(np.float32)


class _Frames:
    """Frames in memory, asked for by time."""

    def __init__(self, frames: NDArray[np.uint8], rate: Fraction, name: str, limits: Limits) -> None:
        self.name, self.rate, self.length = name, rate, len(frames) / rate
        self._frames = frames
        _check_length(name, self.length, len(frames), limits)

    def picture(self, time: Fraction) -> NDArray[np.uint8]:
        return np.asarray(self._frames[min(int(time * self.rate + _LATE), len(self._frames) - 1)])


class _Reader:
    """Frames of an opened container, asked for by time, in rising order: seeks where that skips work."""

    def __init__(self, container: Any, name: str, limits: Limits) -> None:  # noqa: ANN401  (PyAV is optional)
        self.name, self._container, self._limits = name, container, limits
        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams:
            raise MediaError(name, "has no moving picture, only sound", hint='give it as modality "audio"')
        self._stream = stream = streams[0]
        check_pixels(name, stream.width, stream.height, limits)
        # A later key frame may be larger than the first: let the decoder itself refuse.
        context = stream.codec_context
        context.options = {"max_pixels": str(min(limits.max_pixels, 2**31 - 1))}
        context.thread_count = 1
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        self.rate = Fraction(rate) if rate and rate > 0 else Fraction(25)
        self._begin = Fraction(0) if stream.start_time is None else stream.start_time * stream.time_base
        self._decoded = 0
        self._frames: Iterator[Any] = iter(())
        # Time and frame: the latest at or before the time asked for, and the one decoded to know that it is after.
        self._shown: tuple[Fraction, Any] | None = None
        self._ahead: tuple[Fraction, Any] | None = None
        self.length = self._duration()
        count = stream.frames or math.ceil(self.length * self.rate)
        _check_length(name, self.length, count, limits)
        self._frames = iter(container.decode(stream))

    def _duration(self) -> Fraction:
        stream = self._stream
        if stream.frames:
            return Fraction(stream.frames) / self.rate
        if stream.duration:
            return Fraction(stream.duration * stream.time_base)
        if self._container.duration:
            return Fraction(self._container.duration, 1_000_000)
        return self._measured()

    def _measured(self) -> Fraction:
        """Length of a file that does not say it (a recording cut off), from its packets, which is cheap."""
        end, count = self._begin, 0
        for packet in self._container.demux(self._stream):
            count += 1
            if count > self._limits.max_frames:
                raise _too_many(self.name, count, self._limits)
            if packet.pts is not None:
                end = max(end, packet.pts * self._stream.time_base)
        self._container.seek(0)
        return end - self._begin + 1 / self.rate

    def picture(self, time: Fraction) -> NDArray[np.uint8]:
        """The picture ``[h, w, 3]`` on screen at ``time``, upright; the last one where the video ends earlier."""
        due = time + _LATE / self.rate
        if self._key_before(time):
            for back in _BACK_SECONDS:
                self._seek(time - back)
                self._advance(due)
                if self._shown is not None:
                    break
        else:
            self._advance(due)
        found = self._shown or self._ahead
        if found is None:
            raise MediaError(self.name, f"holds no picture at {float(time):.2f} s", hint=_MEND)
        return self._upright(found[1])

    def _key_before(self, time: Fraction) -> bool:
        """Whether a key frame lies between where the decoder stands and ``time``, so that a seek saves work."""
        newest = self._ahead or self._shown
        position = newest[0] if newest else Fraction(0)
        if time - position < _WORTH_A_SEEK / self.rate:
            return False
        index = self._stream.index_entries
        found = index.search_timestamp(self._stamp(time), backward=True, any_frame=False) if len(index) else -1
        if found < 0:
            return True  # the container may still know
        return bool(index[found].timestamp * self._stream.time_base - self._begin > position)

    def _seek(self, time: Fraction) -> None:
        self._container.seek(self._stamp(max(time, Fraction(0))), stream=self._stream, backward=True)
        self._frames = iter(self._container.decode(self._stream))
        self._shown = self._ahead = None

    def _advance(self, due: Fraction) -> None:
        """Decode until the next frame is after ``due``."""
        while self._ahead is None or self._ahead[0] <= due:
            if self._ahead is not None:
                self._shown = self._ahead
            frame = next(self._frames, None)
            if frame is None:
                self._ahead = None
                return
            self._decoded += 1
            if self._decoded > self._limits.max_frames:
                raise _too_many(self.name, self._decoded, self._limits)
            self._ahead = self._time(frame), frame

    def _time(self, frame: Any) -> Fraction:  # noqa: ANN401
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None:  # nobody knows: after the one before
            return self._shown[0] + 1 / self.rate if self._shown else Fraction(0)
        return Fraction(stamp * frame.time_base) - self._begin

    def _stamp(self, time: Fraction) -> int:
        return int((time + self._begin) // self._stream.time_base)

    def _upright(self, frame: Any) -> NDArray[np.uint8]:  # noqa: ANN401
        check_pixels(self.name, frame.width, frame.height, self._limits)
        picture = frame.to_ndarray(format="rgb24")
        return np.rot90(picture, round(frame.rotation / 90) % 4)


def _is_cover(stream: Any) -> bool:  # noqa: ANN401
    """Whether a picture stream is the cover of a sound file."""
    return "attached_pic" in str(getattr(stream.disposition, "name", "") or "").lower()


def _check_length(name: str, length: Fraction, count: int, limits: Limits) -> None:
    if length > limits.max_seconds:
        raise LimitError(
            name,
            f"is {float(length):.1f} s long; the limit is {limits.max_seconds:g} s",
            hint="cut it, or raise Limits(max_seconds=...)",
        )
    if count > limits.max_frames:
        raise _too_many(name, count, limits)


def _too_many(name: str, count: int, limits: Limits) -> LimitError:
    return LimitError(
        name,
        f"has {count} frames; the limit is {limits.max_frames}",
        hint="cut it, or raise Limits(max_frames=...)",
    )
