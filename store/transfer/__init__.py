"""Results as files: every stored figure with what identifies it, out to CSV, JSON Lines or Parquet and back in."""
