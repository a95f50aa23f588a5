"""Whole runs with requirements, each with PASS or FAIL and an exit code."""
