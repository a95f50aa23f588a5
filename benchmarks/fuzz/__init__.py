"""Damaged input for every reader of llmload: answers of engines, files of users, run folders."""
