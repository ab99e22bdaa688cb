"""Definition of sweeps: specs, expansion, cases and their keys, architectures, GPUs. No database, Ray or network."""
