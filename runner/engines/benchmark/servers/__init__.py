"""Servers under test: their commands, their GPUs, their start and their certain end."""
