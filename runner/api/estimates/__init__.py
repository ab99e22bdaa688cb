"""What one deployment does, from Python: an estimate at a batch size, and its analysis."""
