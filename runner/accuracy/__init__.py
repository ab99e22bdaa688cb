"""Errors of estimates against measured runs: estimating each run, errors by group, quality of the choice of GPU."""
