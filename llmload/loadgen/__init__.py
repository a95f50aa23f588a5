"""Locust users and hooks: the only room that knows Locust."""
