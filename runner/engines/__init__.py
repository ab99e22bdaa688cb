"""Engines: what estimates a case. `base` is the interface, `registry` finds them by name."""
