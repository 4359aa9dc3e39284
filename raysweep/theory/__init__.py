"""True values from closed forms and quadrature, one module per source; numpy and scipy only."""
