"""What a model is and needs, from Python: parameters, memory, whether it fits."""
