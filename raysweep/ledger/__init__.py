"""Rows on disk: their schema, the log of parquet parts, which row of a cell counts, and what is left to do."""
