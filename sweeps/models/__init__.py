"""Model architectures, from config.json and from the catalogue."""
