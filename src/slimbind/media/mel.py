"""Log-mel spectrograms as Kaldi computes them, the front end ImageBind's audio tower was trained with.

Written with numpy rather than taken from kaldi-native-fbank, which refuses 128 bands at 16 kHz: there the lowest
triangles are narrower than one bin of the 512-point transform and stay empty. The training data had them empty, so
they have to stay. Method: Kaldi's ``compute-fbank-feats`` with ``--htk-compat --window-type=hanning --dither=0
--use-energy=false``, natural logarithm, energies floored at float32's epsilon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WINDOW_SECONDS = 0.025
_SHIFT_SECONDS = 0.010
_PREEMPHASIS = np.float32(0.97)
_LOWEST_HZ = 20.0
_FLOOR = np.float32(np.finfo(np.float32).eps)


class MelBank:
    """Filter bank for one sampling rate. Immutable, so one may serve several threads.

    Args:
        sample_rate: in Hz.
        bins: number of mel bands between 20 Hz and half the sampling rate.
    """

    def __init__(self, sample_rate: int, bins: int) -> None:
        self.window_length = int(sample_rate * _WINDOW_SECONDS)
        self.shift = int(sample_rate * _SHIFT_SECONDS)
        self._points = 1 << (self.window_length - 1).bit_length()
        ramp = np.arange(self.window_length) / (self.window_length - 1)
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * ramp)).astype(np.float32)
        self._bands = _triangles(sample_rate, bins, self._points)

    def __call__(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Spectrogram ``[bins, frames]`` of a waveform ``[n]`` in -1..1: whole windows only, maybe none."""
        if len(wave) < self.window_length:
            return np.empty((len(self._bands), 0), np.float32)
        view = np.lib.stride_tricks.sliding_window_view(wave, self.window_length)[:: self.shift]
        frames = view - view.mean(axis=1, keepdims=True, dtype=np.float32)
        emphasised = np.empty_like(frames)
        np.multiply(frames[:, :-1], -_PREEMPHASIS, out=emphasised[:, 1:])
        emphasised[:, 1:] += frames[:, 1:]
        emphasised[:, 0] = frames[:, 0] * (1 - _PREEMPHASIS)
        emphasised *= self._window
        spectrum = np.fft.rfft(emphasised, self._points, axis=1)
        power = (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32, copy=False)
        energies: NDArray[np.float32] = self._bands @ power.T
        np.maximum(energies, _FLOOR, out=energies)
        return np.log(energies, out=energies)


def _triangles(sample_rate: int, bins: int, points: int) -> NDArray[np.float32]:
    """Weights ``[bins, points / 2 + 1]``, triangular on the mel scale; the highest frequency belongs to no band."""
    lowest, highest = _mel(np.float64(_LOWEST_HZ)), _mel(np.float64(sample_rate / 2))
    step = (highest - lowest) / (bins + 1)
    left = lowest + step * np.arange(bins)[:, None]
    at = _mel(np.arange(points // 2) * (sample_rate / points))[None]
    weights = np.maximum(0.0, np.minimum((at - left) / step, (left + 2 * step - at) / step))
    return np.pad(weights, ((0, 0), (0, 1))).astype(np.float32)


def _mel(hertz: NDArray[np.floating[Any]] | np.float64) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(hertz / 700.0))
