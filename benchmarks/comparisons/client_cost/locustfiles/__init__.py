"""Locustfiles of the benchmark: llmload made to stall, and the ways to load an engine with Locust alone."""
