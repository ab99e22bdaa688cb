"""The performance of one deployment, from Python: an estimate at a batch size, and its analysis."""
