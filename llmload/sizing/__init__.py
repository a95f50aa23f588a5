"""GPU memory and speed bounds from a model's config; no load, no network."""
