"""Commands that ask the store: one question each."""
