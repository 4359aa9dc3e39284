"""One sweep's folder on any file system, and the leases by which drivers share it."""

from raysweep.store.files import STALE, TEMPORARY, Store, UnreachableError

__all__ = ["STALE", "TEMPORARY", "Store", "UnreachableError"]
