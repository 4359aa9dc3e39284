"""From a declared grid to keyed runs: axes and their values, the grid's algebra, enumeration."""
