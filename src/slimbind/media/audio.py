"""Sound to log-mel clips, as ImageBind hears it: 16 kHz mono, three clips of two seconds, 128 mel bands.

File types: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF and what else libsndfile reads, at any sampling rate and channel
count. In memory: ``(waveform, rate)`` with a waveform ``[n]`` or ``[n, channels]`` (the shorter axis counts as
channels), float in -1..1 or any integer type at full scale. Out: float32 ``[clips, 1, mel_bins, frames]``,
``(log mel - mean) / std``; time that a clip lacks is filled with 0 before normalising, as in training.

Channels are averaged; soxr resamples (HQ). Only the seconds inside the clips are read, so an hour costs what ten
seconds cost. Clips start at ``i * (duration - 2 s) / 3``, the last one ends before the file does, as in the
reference. A sound of two seconds or less would give three equal clips: it gives one, which is the same embedding.
NaN and infinity are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import LimitError, MediaError
from slimbind.media.limits import Limits
from slimbind.media.mel import MelBank
from slimbind.media.source import Source, decoding, describe, is_file_like, open_source
from slimbind.media.spec import AudioSpec

Wave = NDArray[np.float32]

# Resampling a piece equals resampling the whole, if it starts this much earlier and ends this much later.
_MARGIN_SECONDS = 0.1
_BLOCK = 1 << 16
_ID3_HEADER = 10
_FRAME_HEAD = 192  # the names stand in the first 40 bytes of the frame, behind the side information
_LOUDEST = 1e6  # above any convention for full scale, below what overflows a spectrum
_RATES = (1_000, 1_000_000)
_MISSING_SECONDS = 0.1  # headers of lossy files may be off by an encoder's delay
_KNOWN = "WAV, FLAC, OGG, MP3 and AIFF are read; convert it, for instance with ffmpeg"


class AudioPreprocessor:
    """Sounds for one ``AudioSpec``. Safe to call from several threads.

    Returns ``[clips, 1, mel_bins, frames]`` float32, with one clip where all clips are the same.

    Raises (on call):
        MediaError: no readable sound, cut short, not a number, or shorter than one 25 ms window.
        LimitError: longer than ``limits.max_seconds`` or larger than ``limits.max_bytes``.
    """

    def __init__(self, spec: AudioSpec, limits: Limits) -> None:
        self.spec = spec
        self.limits = limits
        self._bank = MelBank(spec.sample_rate, spec.mel_bins)

    def __call__(self, item: object) -> Wave:
        """One item to its distinct clips ``[clips, 1, mel_bins, frames]``; see the class."""
        return self.clips(item, collapse=True)

    def clips(self, item: object, *, collapse: bool = False) -> Wave:
        """All clips ``[spec.clips, 1, mel_bins, frames]``; with ``collapse``, one where they are all equal."""
        if isinstance(item, tuple):
            wave, rate = _from_tuple(item)
            name = describe(item)
            return self._spectrograms(name, len(wave), rate, lambda start, stop: wave[start:stop], collapse)
        if isinstance(item, np.ndarray):
            raise MediaError(
                describe(item), "an array alone has no sampling rate", hint="give a tuple: (waveform, rate)"
            )
        if not is_file_like(item):
            raise MediaError(
                describe(item),
                f"a {type(item).__name__} is no sound",
                hint="give a path, bytes, a file object or (waveform, rate)",
            )
        with open_source(item, self.limits) as source:
            return self._from_file(source, collapse)

    def _from_file(self, source: Source, collapse: bool) -> Wave:
        import soundfile

        with decoding(source.name, "decode the sound", hint=_KNOWN):
            known = _states_length(source)  # looked up first: the decoder moves in the same file
            with soundfile.SoundFile(source.file) as sound:
                length = _count(sound, self.limits) if sound.format == "MP3" and not known else sound.frames

                def read(start: int, stop: int) -> Wave:
                    return _read_mono(sound, start, stop)

                return self._spectrograms(source.name, length, sound.samplerate, read, collapse)

    def _spectrograms(
        self, name: str, length: int, rate: int, read: Callable[[int, int], Wave], collapse: bool
    ) -> Wave:
        spec = self.spec
        _check(name, length, rate, self.limits)
        ranges = clip_ranges(length / rate, spec)
        if collapse and len(set(ranges)) == 1:
            ranges = ranges[:1]
        silence = np.float32(-spec.mean / spec.std)
        out = np.full((len(ranges), 1, spec.mel_bins, spec.frames), silence, np.float32)
        for index, (start, stop) in enumerate(ranges):
            wave = _piece(name, length, rate, read, start, stop, spec.sample_rate)
            mel = self._bank(wave - wave.mean(dtype=np.float32))[:, : spec.frames]
            if not mel.shape[1]:
                raise MediaError(
                    name,
                    f"is {length / rate:.4f} s long, shorter than one analysis window of 25 ms",
                    hint="give at least 25 ms; two seconds or more is best",
                )
            out[index, 0, :, : mel.shape[1]] = (mel - np.float32(spec.mean)) / np.float32(spec.std)
        return out


def clip_spans(duration: float, clips: int, clip_seconds: float) -> list[tuple[float, float]]:
    """Start and end of each clip in seconds: evenly from 0, in steps of a ``clips``-th of the time to spare.

    Computed exactly and rounded once, because a sample more or less is decided by the last bit.
    """
    spare = Fraction(max(duration - clip_seconds, 0.0))
    starts = [spare * index / clips for index in range(clips)]
    return [(float(start), float(start + Fraction(clip_seconds))) for start in starts]


def clip_ranges(duration: float, spec: AudioSpec) -> list[tuple[int, int]]:
    """First sample and end of each clip at the spec's rate; the end may lie behind the end of the sound."""
    spans = clip_spans(duration, spec.clips, spec.clip_seconds)
    return [(int(start * spec.sample_rate), int(end * spec.sample_rate)) for start, end in spans]


def _check(name: str, length: int, rate: int, limits: Limits) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise MediaError(name, f"has a sampling rate of {rate} Hz", hint=f"{_RATES[0]} to {_RATES[1]} Hz are supported")
    if length <= 0:
        raise MediaError(name, "holds no sound (0 samples)", hint="the recording is empty or was cut")
    if length / rate > limits.max_seconds:
        raise LimitError(
            name,
            f"is {length / rate:.1f} s long; the limit is {limits.max_seconds:g} s",
            hint="cut it, or raise Limits(max_seconds=...)",
        )


def _piece(
    name: str, length: int, rate: int, read: Callable[[int, int], Wave], start: int, stop: int, target: int
) -> Wave:
    """Samples ``start:stop`` at ``target`` Hz, read and resampled from just the part of the sound they need."""
    if rate == target:
        low, high = start, min(stop, length)
    else:
        # Pieces begin where samples of both rates coincide, else they would be resampled with a shifted phase.
        stride = rate // math.gcd(rate, target)
        margin = _MARGIN_SECONDS * rate
        low = max(0, int((start * rate / target - margin) // stride)) * stride
        high = min(length, math.ceil(stop * rate / target + margin))
    wave = read(low, high)
    if len(wave) < high - low - _MISSING_SECONDS * rate or not len(wave):
        raise MediaError(
            name,
            f"ends {(high - low - len(wave)) / rate:.2f} s before the end its header promises",
            hint="the file was cut or is damaged; copy it again",
        )
    loudest = float(np.abs(wave).max())
    if not np.isfinite(loudest):
        raise MediaError(name, "has samples that are NaN or infinite", hint="repair it where it was recorded")
    if loudest > _LOUDEST:
        raise MediaError(name, f"has a sample of {loudest:g}", hint="floating-point sound runs from -1 to 1")
    if rate == target:
        return wave
    import soxr

    offset = low // (rate // math.gcd(rate, target)) * (target // math.gcd(rate, target))
    resampled: Wave = soxr.resample(np.ascontiguousarray(wave), rate, target, quality="HQ")
    return resampled[start - offset : stop - offset]


def _states_length(source: Source) -> bool:
    """Whether an MP3's first frame is a Xing, Info or VBRI header: only those say how long the stream is."""
    head = source.head(_ID3_HEADER)
    tag = 0
    if head.startswith(b"ID3") and len(head) == _ID3_HEADER:
        tag = _ID3_HEADER + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    source.file.seek(tag)
    frame = source.file.read(_FRAME_HEAD)
    source.file.seek(0)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def _count(sound: Any, limits: Limits) -> int:  # noqa: ANN401  (soundfile has no types)
    """Samples of an MPEG stream without a length. libsndfile guesses from the first frame, often too much.

    Where nothing is there shortly before the guessed end, the stream is decoded and counted.
    """
    guess, rate = int(sound.frames), int(sound.samplerate)
    if guess / rate > limits.max_seconds:
        return guess  # is refused for it
    sound.seek(max(0, guess - int(_MISSING_SECONDS * rate)))
    if len(sound.read(1)):
        return guess
    sound.seek(0)
    counted = 0
    while block := len(sound.read(_BLOCK, dtype="float32")):
        counted += block
    return counted


def _read_mono(sound: Any, start: int, stop: int) -> Wave:  # noqa: ANN401  (soundfile has no types)
    sound.seek(start)
    wave = np.empty(stop - start, np.float32)
    done = 0
    while done < len(wave):  # by the block: a thousand channels must not take a thousand times the memory
        block = sound.read(min(_BLOCK, len(wave) - done), dtype="float32", always_2d=True)
        if not len(block):
            break
        wave[done : done + len(block)] = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        done += len(block)
    return wave[:done]


def _from_tuple(item: tuple[Any, ...]) -> tuple[Wave, int]:
    name = describe(item)
    hint = "give (waveform, rate): an array [n] or [n, channels] and the samples per second"
    if len(item) != 2 or isinstance(item[1], bool) or not isinstance(item[1], int | float | np.number):
        raise MediaError(name, "is no (waveform, rate) pair", hint=hint)
    if not float(item[1]).is_integer():  # nor are NaN and infinity
        raise MediaError(name, f"has a sampling rate of {item[1]}", hint="it must be a whole number of Hz")
    with decoding(name, "read the waveform", hint=hint):
        array = np.asarray(item[0])
    if array.ndim not in (1, 2) or array.size == 0 or (array.ndim == 2 and min(array.shape) > 64):
        raise MediaError(name, f"a waveform cannot have the shape {array.shape}", hint=hint)
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        middle, full = (0.0, -float(info.min)) if array.dtype.kind == "i" else ((info.max + 1) / 2,) * 2
        array = (array.astype(np.float32) - np.float32(middle)) / np.float32(full)
    elif array.dtype.kind != "f":
        raise MediaError(name, f"has samples of type {array.dtype}", hint="use float in -1..1 or an integer type")
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)))
    with np.errstate(over="ignore"):  # what becomes infinite is refused with its name later
        return array.astype(np.float32, copy=False), int(item[1])
