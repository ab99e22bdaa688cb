"""Operating points as rows, and the frontier of those that no other dominates."""
