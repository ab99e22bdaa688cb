"""What can be set of a deployment, by the names of columns and fields."""

PARALLELISM = ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel")
SHORT_SIZES = dict(zip(("tp", "pp", "dp", "ep"), PARALLELISM, strict=True))
SETTINGS = (*PARALLELISM, "precision", "kv_precision", "server", "gpu_memory_utilization", "max_model_len")
"""What can be set of a deployment, besides its model and GPU."""
