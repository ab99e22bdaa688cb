"""Results as files, with what identifies them: to CSV, JSON Lines and Parquet, and back from the last two."""
