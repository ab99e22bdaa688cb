"""The built-in engine `roofline`: physics of a GPU with constants fitted to measured runs."""

from gpuscout.runner.engines.roofline.engine import RooflineEngine

__all__ = ["RooflineEngine"]
