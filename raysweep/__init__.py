"""Declare a grid once; train it packed on Ray; get one parquet ledger and scaling laws with honest intervals."""

from raysweep.inside import checkpoint, report, run_dir, run_key

__version__ = "0.1.0"
__all__ = ["__version__", "checkpoint", "report", "run_dir", "run_key"]
