"""How an engine is started and asked about itself, and the embedded engine that is only simulated."""
