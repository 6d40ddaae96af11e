"""Colours of heat maps: ramps whose lightness alone tells the order, readable on light and dark pages and in print."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]

# Dark to light, blue to yellow; and blue over grey to red for differences, as dark at either end.
RISING: Sequence[Colour] = ((24, 30, 78), (28, 84, 132), (30, 138, 134), (106, 186, 104), (246, 228, 122))
AROUND: Sequence[Colour] = ((30, 84, 160), (132, 174, 216), (236, 236, 232), (232, 158, 128), (166, 44, 36))


def at(ramp: Sequence[Colour], share: float) -> Colour:
    """The colour at a place between 0 and 1 of a ramp."""
    place = min(max(share, 0.0), 1.0) * (len(ramp) - 1)
    below = min(int(place), len(ramp) - 2)
    part = place - below
    first, second = ramp[below], ramp[below + 1]
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def code(colour: Colour) -> str:
    """As CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def is_light(colour: Colour) -> bool:
    """Whether dark text on it reads better than white: by the contrast that WCAG 2 defines."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in colour)
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05)
