"""Reports: tables and figures from a store's ledger, in one self-contained page."""

from raysweep.reports.html import Report, make_report

__all__ = ["Report", "make_report"]
