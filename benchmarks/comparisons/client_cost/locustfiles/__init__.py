"""Locustfiles of the benchmark: llmload made to stall, and two ways to load an engine with Locust alone."""
