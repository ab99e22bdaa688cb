"""Models from Python: their parameters, the memory they need, whether they fit."""
