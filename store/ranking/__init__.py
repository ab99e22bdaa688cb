"""Steps of `rank()`: candidates from the store, limits, points, places, trust; one step a module."""
