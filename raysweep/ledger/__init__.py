"""Rows on disk: their schema, the log of parquet parts, which row counts, what is left to do."""
