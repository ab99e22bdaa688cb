"""Commands about what the store and the catalogues hold: results, price books, models and GPUs."""
