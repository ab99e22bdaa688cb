"""Which configuration is best: `rank()`, from what is asked over the candidates in the store to the answer."""
