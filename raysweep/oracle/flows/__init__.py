"""Normalising flows: nflows' transforms, and class-conditional densities with Bayes' rule on top of them."""
