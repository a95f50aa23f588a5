"""Load tests of LLM inference deployments with Locust."""
