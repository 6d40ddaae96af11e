"""Write CLIP's merge list for the package, from the vocabulary file inside the ``open_clip_torch`` wheel (MIT).

    python recipes/clip_tokenizer/make.py [bpe_simple_vocab_16e6.txt.gz]

Without an argument the file is looked up in the installed ``open_clip`` package, which is not imported. The output
is the same, byte for byte, on every run.
"""

from __future__ import annotations

import gzip
import sys
from importlib.util import find_spec
from pathlib import Path

# CLIP's vocabulary: 256 bytes, 256 bytes that end a word, these merges, and the two special tokens.
MERGES = 49408 - 2 * 256 - 2
OUTPUT = Path(__file__).parents[2] / "src/slimbind/media/data/clip_merges.txt.gz"


def merge_list(vocabulary: Path) -> bytes:
    """The merges CLIP uses, one per line; the source has a header line and many merges more."""
    lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")
    return "\n".join(lines[1 : 1 + MERGES]).encode("utf-8")


def installed_vocabulary() -> Path:
    """The vocabulary file of the installed ``open_clip``."""
    found = find_spec("open_clip")
    if found is None or found.origin is None:
        sys.exit("open_clip_torch is not installed: pip install open_clip_torch, or name the vocabulary file")
    return Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


def pack(merges: bytes) -> bytes:
    """Compress without a time stamp, so that equal content gives equal files."""
    return gzip.compress(merges, 9, mtime=0)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else installed_vocabulary()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_bytes(pack(merge_list(source)))
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")
