"""Accelerators and their catalogue."""
