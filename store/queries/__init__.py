"""Questions besides the ranking: points, Pareto frontier, comparison, capacity."""
