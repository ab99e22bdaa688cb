"""Measured serving runs: what one is, files of them, and the public ones that ship with gpuscout."""

from gpuscout.store.measured.runs import LoadKind, MeasuredRun, case_of, public_runs, read_runs, runs_digest

__all__ = ["LoadKind", "MeasuredRun", "case_of", "public_runs", "read_runs", "runs_digest"]
