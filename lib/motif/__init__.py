"""Motif: creator vectors (SAME) and adjective scores (OAAR) from images, as a batch job on Ray."""

from importlib.metadata import version

__version__ = version("motif")
