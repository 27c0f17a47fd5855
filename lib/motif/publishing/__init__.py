"""EMBEDDINGS x SAME checkpoint -> rows of CREATORS, and their commit into a Lance table."""
