"""What to evaluate: specs, expansion, cases and their keys, architectures, GPUs. Pure: no database, Ray or network."""
