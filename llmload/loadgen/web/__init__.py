"""llmload's pages in Locust's web UI."""
