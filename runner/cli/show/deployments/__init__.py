"""Sized and placed deployments as tables and documents."""
