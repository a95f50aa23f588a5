"""Is one build worse than another? Two sets of runs compared metric by metric, with intervals."""
