"""Searchable sets of embedded items on disk."""

from __future__ import annotations

from slimbind.collection.collection import Collection
from slimbind.collection.entry import Entry, Hit
from slimbind.collection.location import default_location

__all__ = ["Collection", "Entry", "Hit", "default_location"]
