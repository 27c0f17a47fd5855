"""IMAGES: manifests, fetching, decoding."""
