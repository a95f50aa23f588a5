"""A sweep: which point comes next, what a point's answers show, the Pareto front of all points."""
