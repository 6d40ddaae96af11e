"""WordNet 3.0 read from its data files, and what it says about each of the 1000 ImageNet classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sources import member, members


@dataclass(frozen=True)
class Synset:
    """A noun sense: its words, its definition, and the offsets of the senses right above it."""

    words: tuple[str, ...]
    gloss: str
    above: tuple[int, ...]


def nouns(cache: Path) -> dict[int, Synset]:
    """Every noun synset by its offset in ``data.noun`` (the number in an ImageNet class id)."""
    found = {}
    for line in member("wordnet", "wordnet/data.noun", cache).decode("latin-1").splitlines():
        if line.startswith("  "):  # the licence, on top of the file
            continue
        data, _, gloss = line.partition(" | ")
        parts = data.split()
        count = int(parts[3], 16)
        words = tuple(word.replace("_", " ").lower() for word in parts[4 : 4 + 2 * count : 2])
        links = parts[5 + 2 * count :]
        above = tuple(int(links[i + 1]) for i in range(0, len(links) - 3, 4) if links[i] in ("@", "@i"))
        found[int(parts[0])] = Synset(words, gloss.split(";")[0].strip().lower(), above)
    return found


def texts(cache: Path) -> list[str]:
    """All words and definitions of WordNet, every part of speech: what the vocabulary must be able to say."""
    lines = []
    for name, data in members("wordnet", cache):
        if "/wordnet/data." not in name:
            continue
        for line in data.decode("latin-1").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            parts = head.split()
            lines.append(gloss)
            lines += [word.replace("_", " ") for word in parts[4 : 4 + 2 * int(parts[3], 16) : 2]]
    return lines


@dataclass(frozen=True)
class ClassText:
    """What is known of a class in words: synonyms, definition, and ever more general names with their distance."""

    names: tuple[str, ...]
    gloss: str
    general: tuple[tuple[str, int], ...]


# Words so general that every class has them; they would only pull all classes together.
_TOO_GENERAL = {"entity", "physical entity", "abstraction", "object", "whole", "matter", "substance"}


def classes(cache: Path) -> list[ClassText]:
    """The 1000 ImageNet classes in the order of the classifier's outputs."""
    synsets = nouns(cache)
    ids = member("timm", "data/_info/imagenet_synsets.txt", cache).decode().split()
    found = []
    for identity in ids:
        offset = int(identity[1:])
        synset, general, level = synsets[offset], [], 0
        seen, front = {offset}, [offset]
        while front:
            level += 1
            front = [up for low in front for up in synsets[low].above if up not in seen]
            seen.update(front)
            general += [(synsets[up].words[0], level) for up in front if synsets[up].words[0] not in _TOO_GENERAL]
        found.append(ClassText(synset.words, synset.gloss, tuple(general)))
    return found
