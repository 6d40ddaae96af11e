"""Sentences that a class's name is put into, so that a text tower reads the kind of text it was trained on.

imagenet7    seven of the eighty, which a forward selection on ImageNet ended with
imagenet80   the eighty of the CLIP paper
             both from https://github.com/openai/CLIP (notebooks/Prompt_Engineering_for_ImageNet.ipynb), MIT License,
             Copyright (c) 2021 OpenAI; paper: Radford et al., Learning Transferable Visual Models From Natural
             Language Supervision, 2021 (arXiv 2103.00020), section 3.1.4
photo        the one sentence of that paper
sound        the one that is usual for CLAP models
audio        six ways to speak of a sound
none         the name alone
"""

from __future__ import annotations

from collections.abc import Sequence

from slimbind.errors import UsageError

SLOT = "{}"

_IMAGENET7 = """
itap of a {}.
a bad photo of the {}.
a origami {}.
a photo of the large {}.
a {} in a video game.
art of the {}.
a photo of the small {}.
"""
# In the published order. Means do not depend on it, but for the last digit.
_IMAGENET80 = """
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}.
"""
_AUDIO = """
This is a sound of {}.
the sound of {}
a recording of {}
{} can be heard
a clip of {} in the distance
{}
"""


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.strip().splitlines())


SETS: dict[str, tuple[str, ...]] = {
    "imagenet7": _lines(_IMAGENET7),
    "imagenet80": _lines(_IMAGENET80),
    "photo": ("a photo of a {}.",),
    "sound": ("This is a sound of {}.",),
    "audio": _lines(_AUDIO),
    "none": (SLOT,),
}
_USUAL = {"vision": "photo", "depth": "photo", "thermal": "photo", "audio": "sound"}


def usual(modality: str) -> str:
    """The name of the set that is taken where nobody says: one sentence that suits the modality."""
    return _USUAL.get(modality, "none")


def choose(given: Sequence[str], modality: str) -> tuple[str, ...]:
    """Templates from what was asked for: names of sets, sentences with a ``{}`` for the class, or nothing.

    Raises:
        UsageError: something is neither.
    """
    found: dict[str, None] = {}
    for one in given or [usual(modality)]:
        if one in SETS:
            found |= dict.fromkeys(SETS[one])
        elif SLOT in one:
            found[one] = None
        else:
            raise UsageError.unknown("set of templates", one, SETS, hint='or give a sentence: "a photo of a {}"')
    return tuple(found)


def fill(template: str, name: str) -> str:
    """The template with the class's name; braces in either are left alone."""
    return template.replace(SLOT, name)
