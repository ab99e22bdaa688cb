"""Names of models to architectures: catalogue, files, the Hub."""
