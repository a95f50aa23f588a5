"""What a token costs a load generator, and how accurate its figures are: llmload and its peers on the same work."""
