"""What people ask pictures and sounds for, when nobody says: short texts that tell codes where questions lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slimbind.collection import Collection

if TYPE_CHECKING:
    from slimbind.runtime.model import Model

_FRAMES = ("{}", "a photo of {}", "{} in the morning", "a close-up of {}", "two of {}", "{} outdoors", "old {}")
_THINGS = """
a dog; a cat; a horse; a bird; a fish; a butterfly; a cow; an elephant; a spider; a snake; a child; a baby; an old man;
a woman with a hat; a crowd; a wedding; a birthday party; a football match; a runner; a swimmer; a dancer; a musician;
a beach; a mountain; a lake; a river; a forest; a desert; the sea; a waterfall; snow; rain; fog; a sunset; the moon;
a thunderstorm; a rainbow; a garden; a flower; a tree; mushrooms; a street; a bridge; a tower; a church; a castle;
a skyscraper; a market; a shop window; a kitchen; a bathroom; a bedroom; a staircase; a door; a window; a chair;
a table; a lamp; a bed; a mirror; a car; a bus; a train; a bicycle; a motorcycle; a boat; a ship; an aeroplane;
a helicopter; a tractor; a cup of coffee; a cake; bread; pizza; fruit; vegetables; a salad; a bottle of wine; a burger;
a book; a newspaper; a letter; a map; a chart; handwriting; a screenshot; a receipt; a telephone; a computer; a camera;
a watch; a guitar; a piano; a drum; a violin; a ball; a toy; a balloon; a candle; a fire; a clock; a key; scissors;
an umbrella; a bag; shoes; a coat; a dress; glasses; a ring; a painting; a statue; graffiti; a flag; a sign; a logo;
something red; something blue; something green; a black and white picture; a dark room; a bright sky; a pattern;
applause; laughter; footsteps; a siren; an engine; birdsong; barking; waves; wind; rain on a roof; bells; a crying baby
"""
PROMPTS = tuple(frame.format(thing.strip()) for thing in _THINGS.split(";") for frame in _FRAMES)


def learn_prompts(collection: Collection, model: Model) -> bool:
    """Let codes be fitted to texts that people ask, where they were fitted to nothing yet; says whether it did.

    Nothing happens where the collection is small enough to be searched exactly, has queries already, or holds texts
    only; or where the model takes no texts.

    Args:
        collection: whose vectors come from ``model``.
        model: a ``slimbind.Model``.
    """
    stats = collection.stats()
    if "text" not in model.modalities or stats.method == "exact" or stats.queries or set(stats.modalities) <= {"text"}:
        return False
    collection.learn_queries(model.embed(PROMPTS, "text"), "text")
    return True
