"""Motif: creator vectors (SAME) and adjective scores (OAAR) from images, as a batch job on Ray."""

import os

# Before anybody imports Lance: on standard error it warns of what is usual here, such as a table
# that it is about to make.
os.environ.setdefault("LANCE_LOG", "error")

# Not asked of the installed package: on a cluster `lib` is submitted, and nothing is installed.
__version__ = "0.1.0"
