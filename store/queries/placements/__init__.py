"""Replicas placed on GPUs that somebody owns or is offered."""
