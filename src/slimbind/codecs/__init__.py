"""Embeddings made small: codecs, the gap-aware transform, and the index that searches codes."""

from slimbind.codecs.codec import Codec, open_codec
from slimbind.codecs.index import CodeIndex, choose
from slimbind.codecs.spec import CodecSpec, parse
from slimbind.codecs.transform import Transform, fit

__all__ = ["CodeIndex", "Codec", "CodecSpec", "Transform", "choose", "fit", "open_codec", "parse"]
