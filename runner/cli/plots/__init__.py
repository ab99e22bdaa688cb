"""Plots, drawn with matplotlib (`pip install 'gpuscout[plots]'`), which is imported when one is asked for."""
