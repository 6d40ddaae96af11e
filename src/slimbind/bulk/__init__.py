"""Many items at once: a reader finds them, a model embeds them, a writer keeps the result. All of it streams."""

from __future__ import annotations

from slimbind.bulk.embedding import embed_items
from slimbind.bulk.indexing import Summary, update_index
from slimbind.bulk.items import About, Item, Row
from slimbind.bulk.prompts import learn_prompts
from slimbind.bulk.reader import Reader
from slimbind.bulk.removal import Held
from slimbind.bulk.writer import open_writer

__all__ = [
    "About",
    "Held",
    "Item",
    "Reader",
    "Row",
    "Summary",
    "embed_items",
    "learn_prompts",
    "open_writer",
    "update_index",
]
