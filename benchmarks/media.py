"""How many items a second does one thread decode and prepare, and what would JPEG's cheap half-size decoding change?

    python benchmarks/media.py

Every item is made here, in memory, and goes the whole way from bytes to the tower's array. CPU time of this process is
counted, so that a busy machine changes little; of ``--rounds`` rounds the median is given. For sound and video the
seconds of material per second are given too. The draft rows decode a JPEG at the largest reduction that leaves twice
the pixels needed, and say by how many of 256 levels the prepared image then differs: more than the exact tolerance of
1/255 after normalising, which is a quarter of a level, and why it is not used.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from environment import environment
from slimbind.media import preprocessor
from slimbind.media.spec import AudioSpec, DepthSpec, ImageSpec, ImuSpec, TextSpec, ThermalSpec

_RNG = np.random.default_rng(0)
SENTENCE = "A photo of a golden retriever on the beach at sunset."


def photo(width: int, height: int) -> bytes:
    """A JPEG with coarse shapes and fine grain, about as large as a camera's."""
    shapes = _RNG.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grainy = np.clip(smooth + _RNG.integers(-12, 13, (height, width, 1)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grainy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def sound(format_: str, rate: int, seconds: int) -> bytes:
    """A stereo tone with noise."""
    wave = 0.3 * np.sin(np.arange(rate * seconds) / 9) + 0.05 * _RNG.standard_normal(rate * seconds)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 2, format=format_) as file:
        for second in np.stack([wave, wave], axis=1).reshape(seconds, rate, 2):
            file.write(second)  # libsndfile crashes where it is to encode a minute of Vorbis at once
    return buffer.getvalue()


def video(width: int, height: int, seconds: int) -> bytes:
    """H.264 at 30 frames a second, a key frame every second, a moving texture."""
    texture = np.frombuffer(Image.open(io.BytesIO(photo(width, height))).tobytes(), np.uint8).reshape(height, width, 3)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 30
        for index in range(30 * seconds):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, 4 * index, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def cases() -> list[tuple[str, Callable[[object], Any], object, float | None]]:
    """Name, preprocessor, item and, where it has a length, its seconds."""
    vision, audio = preprocessor(ImageSpec()), preprocessor(AudioSpec())
    plane = _RNG.random((480, 640), np.float32) + 0.5
    return [
        ("image, JPEG 640 x 480", vision, photo(640, 480), None),
        ("image, JPEG 1920 x 1080", vision, photo(1920, 1080), None),
        ("image, JPEG 4000 x 3000", vision, photo(4000, 3000), None),
        ("video, H.264 640 x 360, 20 s", vision, video(640, 360, 20), 20.0),
        ("text, 53 characters", preprocessor(TextSpec()), SENTENCE, None),
        ("audio, WAV 16 kHz stereo, 10 s", audio, sound("WAV", 16000, 10), 10.0),
        ("audio, WAV 44.1 kHz stereo, 10 s", audio, sound("WAV", 44100, 10), 10.0),
        ("audio, FLAC 44.1 kHz stereo, 60 s", audio, sound("FLAC", 44100, 60), 60.0),
        ("audio, MP3 44.1 kHz stereo, 60 s", audio, sound("MP3", 44100, 60), 60.0),
        ("audio, OGG 44.1 kHz stereo, 60 s", audio, sound("OGG", 44100, 60), 60.0),
        ("depth, array 640 x 480", preprocessor(DepthSpec()), plane, None),
        ("thermal, array 640 x 480", preprocessor(ThermalSpec()), plane, None),
        ("imu, array at 400 Hz, 10 s", preprocessor(ImuSpec()), (_RNG.random((4000, 6)), 400), 10.0),
    ]


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Median CPU time of one call in milliseconds, over rounds of at least 50 ms each."""
    work()
    start = time.process_time()
    work()
    times = max(1, round(0.05 / max(time.process_time() - start, 1e-5)))
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(times):
            work()
        taken.append((time.process_time() - start) / times)
    return statistics.median(taken) * 1e3


def draft_row(width: int, height: int, rounds: int) -> dict[str, Any]:
    """What decoding at a reduced size would save, and by how many levels it would be wrong."""
    data, spec = photo(width, height), ImageSpec()
    vision = preprocessor(spec)

    def reduced() -> np.ndarray:
        image = Image.open(io.BytesIO(data))
        scale = 2 * spec.resize / min(image.size)
        image.draft(None, (round(image.width * scale), round(image.height * scale)))
        return vision(image)

    scale = np.asarray(spec.std).reshape(3, 1, 1) * 255
    difference = np.abs(reduced() - vision(data))[0] * scale
    return {
        "case": f"draft, JPEG {width} x {height}",
        "cpu_ms": round(cpu_ms(reduced, rounds), 3),
        "levels_mean": round(float(difference.mean()), 2),
        "levels_max": round(float(difference.max()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "media.json")
    args = parser.parse_args()
    rows = []
    for name, prepare, item, seconds in cases():
        taken = cpu_ms(lambda prepare=prepare, item=item: prepare(item), args.rounds)
        row: dict[str, Any] = {"case": name, "cpu_ms": round(taken, 3), "per_second": round(1e3 / taken, 1)}
        if seconds is not None:
            row["seconds_per_second"] = round(seconds / taken * 1e3)
        rows.append(row)
        print(f"{name:36} {taken:9.2f} ms {1e3 / taken:9.1f} /s")
    drafts = [draft_row(width, height, args.rounds) for width, height in ((1920, 1080), (4000, 3000))]
    for row in drafts:
        print(
            f"{row['case']:36} {row['cpu_ms']:9.2f} ms  off by {row['levels_mean']}, at most {row['levels_max']} levels"
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": "media",
        "command": f"python benchmarks/media.py --rounds {args.rounds}",
        "environment": environment("pillow", "soundfile", "soxr", "av", "tokenizers", threads=1),
        "rows": rows,
        "draft": drafts,
    }
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
