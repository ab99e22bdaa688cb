"""Settings of a deployment, by the names of columns and fields."""

PARALLELISM = ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel")
SHORT_SIZES = dict(zip(("tp", "pp", "dp", "ep"), PARALLELISM, strict=True))
STARTED = ("server_options", "speculative")
"""With what a server is started beyond all that, as text; empty: its defaults, and nothing drafted."""
SETTINGS = (
    *(*PARALLELISM, "precision", "kv_precision", "server", "gpu_memory_utilization", "max_model_len"),
    *STARTED,
)
"""What can be set of a deployment, besides its model and GPU."""
