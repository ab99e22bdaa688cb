"""Commands that write, run and list sweeps."""
