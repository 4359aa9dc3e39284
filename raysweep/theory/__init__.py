"""Closed forms and quadrature truths, one module per source; numpy and scipy only."""
