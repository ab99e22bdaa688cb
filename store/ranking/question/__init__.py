"""What a ranking is asked: names looked up, filters, limits, and how surely they have to be met."""
