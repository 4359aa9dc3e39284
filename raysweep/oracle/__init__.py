"""Worlds whose posterior p(y|x) is known exactly: trained class-conditional flows, and analytic ones."""
