"""Is one build slower than another? Two sets of runs, metric by metric, with intervals."""
