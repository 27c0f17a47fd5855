"""Fitting SAME, apart from where it runs."""
