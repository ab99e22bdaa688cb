"""GPUs and money for a load: at one rate, over time, for a batch, beside an API that is paid by the token."""
