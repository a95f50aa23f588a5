"""Programs around llmload that no installation needs: real engines for its tests, and what the harness itself costs."""
