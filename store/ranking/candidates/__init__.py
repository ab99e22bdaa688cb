"""Everything that may be ranked: rows of tasks, medians of measured runs, trust in them, and their places."""
