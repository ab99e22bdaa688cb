"""Traffic beyond mean lengths: how lengths vary, what is cached, when requests arrive."""
