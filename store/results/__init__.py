"""Sweeps, blocks, tasks and points as they are written."""
