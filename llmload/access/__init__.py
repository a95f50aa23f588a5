"""What it takes to reach an engine: its address, as people write it, and the keys and headers that it asks for."""
