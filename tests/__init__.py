"""A package of its own: what others install as `tests` must not be found instead of it."""
