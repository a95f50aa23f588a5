"""How often `llmload compare` is wrong about equal systems, and how often it finds a true slowdown."""
