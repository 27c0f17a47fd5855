"""Frozen image-text encoders: any that open_clip loads, and the `lite` one that needs no hub."""
