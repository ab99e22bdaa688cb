"""How `rank()` answers: candidates from the store, limits, points, places, trust; one step a module."""
