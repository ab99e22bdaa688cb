"""Which GPUs to take, from Python: a sweep run and ranked, and its results."""
