"""The question of a ranking: names looked up, filters, limits, and the confidence with which they must be met."""
