"""Searchable sets of embedded items on disk. For now one kind: a flat index, searched exactly."""

from __future__ import annotations

from slimbind.collection.entry import Entry, Hit
from slimbind.collection.flat import FlatIndex
from slimbind.collection.location import default_location

__all__ = ["Entry", "FlatIndex", "Hit", "default_location"]
