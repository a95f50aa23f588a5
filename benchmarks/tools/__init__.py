"""What trials and comparisons share: engines with known times, real engines, peers, pinned processes, requirements."""
