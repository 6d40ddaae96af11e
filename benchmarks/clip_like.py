"""Vectors as CLIP makes them, made up: pictures and captions in one space, apart from each other, in any number.

    python benchmarks/clip_like.py --documents 100000           # print what they are like

What is like CLIP, and how it is made:

- *One space, two cones.* Pictures lie around one mean direction, captions around another (the modality gap).
- *Shared contents.* An item is a topic (1000 of them, some far more frequent than others), a kind within the topic, and
  what is its own. Picture and caption show the same contents through different eyes: both see them along the same
  axes, whose weights fall by a power law, but in another order. So the directions in which pictures vary most are not
  those that captions ask about, which is what makes queries lie outside of the documents' distribution.
- *What only one of them has* (light and background; choice of words) is noise along the axes of its own kind.

How strong each of these is was set so that one-bit codes lose of scores about what they lose on 500 pairs of real CLIP
embeddings (error over spread of the scores: .51 raw, .25 centred, .09 with the transform fitted on other pairs).

The ground truth is the exact dot product of the float vectors, so recall measures what compression loses, not whether a
caption belongs to a picture. Every query's own picture is among the documents.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
TOPICS, KINDS = 1000, 40
CHUNK = 50_000


@dataclass(frozen=True)
class Generator:
    """Draws pictures and captions; the same ``seed`` gives the same world, chunk by chunk."""

    dim: int = 512
    seed: int = 0
    cone: float = 0.7  # share of a vector's square that is its kind's mean: the cosine of two unrelated pictures
    decay: float = 0.8  # power law of the contents' axes
    apart: float = 0.8  # how far the order of axes differs between the two (0: the same)
    own: float = 0.5  # share of the variance that only one of the two has

    def world(self) -> tuple[Vectors, Vectors, Vectors, Vectors, Vectors]:
        """Axes ``[dim, dim]``, topics, kinds, and for pictures and captions the mean and the weights ``[2, dim]``."""
        rng = np.random.default_rng(self.seed)
        axes = np.linalg.qr(rng.standard_normal((self.dim, self.dim)))[0].astype(np.float32)
        rank = np.arange(1, self.dim + 1, dtype=np.float64)
        weights = []
        for _ in range(2):
            # Ranks shuffled by a noise in the exponent: some axes gain, some lose.
            weight = rank**-self.decay * np.exp(self.apart * rng.standard_normal(self.dim))
            weights.append(weight / np.linalg.norm(weight))
        topics = rng.standard_normal((TOPICS, self.dim)).astype(np.float32)
        kinds = rng.standard_normal((KINDS, self.dim)).astype(np.float32)
        means = np.linalg.qr(rng.standard_normal((self.dim, 2)))[0].T.astype(np.float32)
        # Both cones share a little: in CLIP unrelated pictures and captions have a cosine of .1 to .2, not 0.
        means[1] = 0.2 * means[0] + np.sqrt(1 - 0.04) * means[1]
        return axes, topics, kinds, means, np.array(weights, np.float32)

    def _draw(self, count: int, seed: int, side: int) -> Iterator[Vectors]:
        """Pictures (``side`` 0) or captions (1) in chunks ``[up to CHUNK, dim]``, unit length; ``seed``: of what."""
        axes, topics, kinds, means, weights = self.world()
        popularity = 1 / np.arange(1, TOPICS + 1) ** 0.7
        popularity /= popularity.sum()
        for number, start in enumerate(range(0, count, CHUNK)):
            rows = min(CHUNK, count - start)
            rng = np.random.default_rng((self.seed, seed, number))
            mixed = rng.standard_normal((CHUNK, self.dim), dtype=np.float32)[:rows]
            mixed *= np.sqrt(0.5)
            mixed += np.sqrt(0.3) * topics[rng.choice(TOPICS, CHUNK, p=popularity)[:rows]]
            mixed += np.sqrt(0.2) * kinds[rng.integers(0, KINDS, CHUNK)[:rows]]
            mixed *= np.sqrt(1 - self.own)
            alone = np.random.default_rng((self.seed, seed, number, side + 1))
            mixed += np.sqrt(self.own) * alone.standard_normal((rows, self.dim), dtype=np.float32)
            vectors = (mixed * (np.sqrt(1 - self.cone) * weights[side])) @ axes.T + np.sqrt(self.cone) * means[side]
            yield np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def documents(self, count: int) -> Vectors:
        """Pictures ``[count, dim]``."""
        found = np.empty((count, self.dim), np.float32)
        for start, chunk in zip(range(0, count, CHUNK), self._draw(count, 1, 0), strict=True):
            found[start : start + len(chunk)] = chunk
        return found

    def captions(self, count: int) -> Vectors:
        """Captions ``[count, dim]`` of the first pictures: the queries."""
        return np.concatenate(list(self._draw(count, 1, 1)))

    def sample(self, count: int) -> Vectors:
        """Captions ``[count, dim]`` of other pictures than ``documents`` has, to fit on."""
        return np.concatenate(list(self._draw(count, 2, 1)))


def describe(documents: Vectors, captions: Vectors) -> dict[str, float]:
    """Mean cosines between unrelated items, and of pairs."""
    half = len(captions) // 2
    some = documents[: len(captions)]
    return {
        "picture-picture": float((some[:half] * some[half : 2 * half]).sum(1).mean()),
        "caption-caption": float((captions[:half] * captions[half : 2 * half]).sum(1).mean()),
        "unrelated": float((some[:half] * captions[half : 2 * half]).sum(1).mean()),
        "own caption": float((some * captions).sum(1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    args = parser.parse_args()
    made = Generator(args.dim)
    for name, value in describe(made.documents(args.documents), made.captions(1000)).items():
        print(f"{name:18}{value:.3f}")


if __name__ == "__main__":
    main()
