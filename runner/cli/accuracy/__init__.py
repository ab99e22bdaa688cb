"""Commands that compare estimates with measured runs and learn from them."""
