"""Measured runs as output: what was imported, and how far estimates are from it."""
