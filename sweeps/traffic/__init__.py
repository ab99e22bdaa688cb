"""What requests are like beyond their mean lengths: how lengths vary, what is cached, when requests arrive."""
