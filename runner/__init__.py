"""Evaluation of sweeps: resolving names, engines, executors, the controller and the command line."""
