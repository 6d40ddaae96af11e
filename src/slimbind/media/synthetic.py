"""Made-up depth maps, thermal images and inertial recordings, for where no real ones are at hand.

They have the units, the ranges and the coarse structure of real ones (surfaces and edges, warm bodies before a cool
background, gravity and steps), which white noise has not: a network's activations on noise are no guide to its
activations on data. They are still made up, and whoever uses them says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_HEIGHT, _WIDTH = 240, 320
_SAMPLES, _RATE = 2000, 200.0
_GRAVITY = 9.81


def depth(number: int) -> NDArray[np.float32]:
    """A room: floor, back wall and some boxes, with a few pixels that the sensor missed. ``[240, 320]``, metres."""
    random = np.random.default_rng((1, number))
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float64)
    wall = random.uniform(2.5, 8.0) * (1 + random.uniform(-0.2, 0.2) * (columns / _WIDTH - 0.5))
    horizon = random.uniform(0.35, 0.55) * _HEIGHT
    camera = random.uniform(0.8, 1.8)  # metres above the floor
    floor = camera * 1.1 * _HEIGHT / np.maximum(rows - horizon, 1e-3)
    scene = np.minimum(wall, np.where(rows > horizon, floor, np.inf))
    for _ in range(int(random.integers(2, 8))):
        height, width = random.integers(20, 140), random.integers(15, 110)
        top, left = random.integers(0, _HEIGHT - height), random.integers(0, _WIDTH - width)
        box = scene[top : top + height, left : left + width]
        lean = np.linspace(0, random.uniform(-0.3, 0.3), int(width))
        np.minimum(box, random.uniform(0.8, 5.0) + lean, out=box)
    scene += random.normal(0, 0.002, scene.shape) * scene**2  # the error of stereo grows with the square
    scene[random.random(scene.shape) < random.uniform(0, 0.03)] = 0
    single: NDArray[np.float32] = scene.astype(np.float32)
    return single


def thermal(number: int) -> NDArray[np.float32]:
    """A cool background with warmer shapes: upright bodies, round sources. ``[240, 320]``, kelvin."""
    random = np.random.default_rng((2, number))
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float64)
    scene = random.uniform(275, 298) + random.uniform(-6, 6) * rows / _HEIGHT + random.uniform(-3, 3) * columns / _WIDTH
    for _ in range(int(random.integers(2, 6))):  # walls, ground, sky: areas of their own temperature
        normal, offset = random.normal(size=2), random.uniform(-0.5, 0.5)
        side = normal[0] * (rows / _HEIGHT - 0.5) + normal[1] * (columns / _WIDTH - 0.5) > offset
        scene[side] += random.uniform(-4, 4)
    for _ in range(int(random.integers(1, 6))):
        centre = random.uniform(0, _HEIGHT), random.uniform(0, _WIDTH)
        width = random.uniform(4, 30)
        height = width * random.choice([1.0, 2.5])
        distance = ((rows - centre[0]) / height) ** 2 + ((columns - centre[1]) / width) ** 2
        warm = random.uniform(300, 310)
        blend = 1 / (1 + np.exp(np.minimum((distance - 1) * 8, 60)))
        scene += (warm - scene) * blend
    scene += random.normal(0, 0.05, scene.shape)
    single: NDArray[np.float32] = scene.astype(np.float32)
    return single


def imu(number: int) -> NDArray[np.float32]:
    """Ten seconds of rest, walking or turning: gravity, steps, drift. ``[2000, 6]`` at 200 Hz, m/s2 and rad/s."""
    random = np.random.default_rng((3, number))
    time = np.arange(_SAMPLES) / _RATE
    tilt = np.cumsum(random.normal(0, 0.004, (_SAMPLES, 3)), axis=0) + random.uniform(-0.6, 0.6, 3)
    turn = random.uniform(0, 1.5) * np.sin(2 * np.pi * random.uniform(0.05, 0.4) * time + random.uniform(0, 6))
    down = np.stack([np.sin(tilt[:, 0]), np.sin(tilt[:, 1]) * np.cos(tilt[:, 0]), np.cos(tilt[:, 1])], axis=1)
    down *= _GRAVITY / np.linalg.norm(down, axis=1, keepdims=True)
    strength = random.choice([0.0, 1.0, 3.0])  # rest, walk, run
    pace = random.uniform(1.5, 3.0)
    steps = np.zeros((_SAMPLES, 3))
    for harmonic in (1, 2, 3):
        phases = random.uniform(0, 2 * np.pi, 3)
        shares = random.uniform(0.2, 1.0, 3) / harmonic
        steps += strength * shares * np.sin(2 * np.pi * pace * harmonic * time[:, None] + phases)
    rates = np.gradient(tilt, time, axis=0) * 0.1 + 0.1 * steps
    rates[:, 2] += turn
    readings = np.concatenate([down + steps, rates], axis=1)
    readings += random.normal(0, [0.05] * 3 + [0.005] * 3, readings.shape)
    return readings.astype(np.float32)


# Modality -> what makes its scenes; scene ``number`` is the same every time.
SCENES: dict[str, Callable[[int], NDArray[np.float32]]] = {"depth": depth, "thermal": thermal, "imu": imu}
