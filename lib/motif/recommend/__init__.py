"""Ranking creators whom no brand has worked with, from their content alone.

Works on plain arrays of content vectors; `on_ray.recommend` does it for whole tables.
"""
