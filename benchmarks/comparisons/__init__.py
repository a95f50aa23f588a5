"""llmload beside other load generators on the same work."""
