"""Data to evaluate with, as it lies on the disk: many layouts, one kind of sample, read as it is asked for.

``open(path)`` finds out what is there (see ``opening.KINDS``) and gives a ``Dataset``, which is iterated for
``Sample``. Nothing is fetched from a network, nothing is unpacked to the disk, and nothing of a data set is executed.
"""

from __future__ import annotations

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.opening import KINDS, open

__all__ = ["KINDS", "Dataset", "Sample", "open"]
