"""raysweep: declare a grid once; train it packed; keep one ledger; fit the laws and say how sure they are."""

__version__ = "0.1.0"
