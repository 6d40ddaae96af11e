"""The main job from nothing: index a folder, ask it in words, and see which towers that opened and what they cost.

    python examples/demo.py [FOLDER]

Without a folder it takes the samples that come with the repository. Nothing is fetched, and nothing is left behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import slimbind
from slimbind.runtime.memory import resident_bytes

SAMPLES = Path(__file__).parents[1] / "samples"
QUERIES = (
    "a dog",
    "a red flower",
    "a boat on the water",
    "snow on a mountain",
    "something to eat",
    "a musical instrument",
)


def run(*command: str) -> None:
    """Run a slimbind command as a user would, and show it."""
    print(f"\n$ slimbind {' '.join(repr(word) if ' ' in word else word for word in command)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "slimbind", *command], stderr=subprocess.STDOUT)
    if done.returncode not in (0, 4):  # 4: done, but some files could not be read
        sys.exit(done.returncode)


def ask(folder: Path, index: str) -> None:
    """Answer all queries in this process, and show what is open after each step."""
    with slimbind.load("mini") as model, slimbind.Collection.open(index) as shelf:
        state("model loaded", model)
        print(f"\n{'query':24} best three")
        for query in QUERIES:
            hits = shelf.search(model.embed([query], "text"), k=3)
            names = (f"{os.path.relpath(hit.source, folder)} ({hit.score:.2f})" for hit in hits)
            print(f"{query:24} {',  '.join(names)}")
        print()
        state("after six questions in words", model)
        model.unload()
        state("after unload (what is left is the engine, not a tower)", model)


def state(moment: str, model: slimbind.Model) -> None:
    """One line on what is in memory."""
    towers = ", ".join(f"{name} ({tower.bytes / 1e6:.1f} MB of weights)" for name, tower in model.loaded.items())
    held = resident_bytes()
    process = f"; the process holds {held / 1e6:.0f} MB" if held is not None else ""
    print(f"{moment}: open towers: {towers or 'none'}{process}")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else SAMPLES)
    with tempfile.TemporaryDirectory(prefix="slimbind-demo-") as place:
        index = os.path.join(place, "index")
        os.environ["SLIMBIND_INDEX"] = index
        run("info", "mini")
        run("index", os.path.relpath(folder))
        run("search", "a dog", "-k", "3", "--verbose")
        print("\nThe same as a library:\n")
        ask(folder.resolve(), index)


if __name__ == "__main__":
    main()
