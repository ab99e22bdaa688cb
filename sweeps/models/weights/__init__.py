"""Counting a model's weights and caches from its configuration: mixers, tables, MLPs and experts, towers."""
