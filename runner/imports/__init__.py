"""Importing measured results: what flags and mapping files add to what files say, names resolved, runs stored."""
