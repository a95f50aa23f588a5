"""Which prompts are sent, in which order, and when."""
