"""How often `llmload compare` errs on equal systems, and how often it finds a real slowdown."""
