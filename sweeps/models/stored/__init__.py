"""How a checkpoint stores its weights: number formats, from its configuration and its files."""
