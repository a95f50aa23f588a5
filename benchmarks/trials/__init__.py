"""Whole runs held to a requirement, each with PASS or FAIL and an exit code."""
