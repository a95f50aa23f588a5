"""Distributions that merge, and intervals for samples that depend on each other."""
