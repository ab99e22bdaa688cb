"""Fitting the roofline engine's constants to measured runs, and measuring by cross-validation how far they carry."""
