"""Motif: creator vectors (SAME) and adjective scores (OAAR) from images, as a batch job on Ray."""

import os
from importlib.metadata import version

# Before anybody imports Lance: on standard error it warns of what is usual here, such as a table
# that it is about to make.
os.environ.setdefault("LANCE_LOG", "error")

__version__ = version("motif")
