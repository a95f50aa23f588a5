"""What trials and comparisons need: engines with known times, real engines, peers, pinned processes, requirements."""
