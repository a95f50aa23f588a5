"""What one request did, sums that merge, what counts as good, and whether a run can be trusted."""
