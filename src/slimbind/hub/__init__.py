"""Where models come from: known names, folders, Hugging Face repositories and https addresses."""

from slimbind.hub.known import KnownModel, catalog
from slimbind.hub.sources import FoundCheckpoint, checkpoint, fetcher, resolve

__all__ = ["FoundCheckpoint", "KnownModel", "catalog", "checkpoint", "fetcher", "resolve"]
