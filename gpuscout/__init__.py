"""gpuscout: which GPUs should serve this model, and what will it cost?"""

__version__ = "0.1.0"
