"""The right to be forgotten: taking creators out of every artefact, and proving that it was done.

Weights that were trained on their images, and figures over many creators, stay.
"""

from motif.erasure.erase import Request, erase

__all__ = ["Request", "erase"]
