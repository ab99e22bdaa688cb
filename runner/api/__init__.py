"""The Python API: what the functions and classes of `import gpuscout` do."""
