"""What a token costs a load generator, and how true its figures are: llmload and its peers on the same work."""
