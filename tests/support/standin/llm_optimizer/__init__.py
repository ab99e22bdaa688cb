"""A stand-in for BentoML's llm-optimizer, for tests: the same functions and command, answering from recorded runs."""
