"""Whether the packet ring's stamps are right on real networks: an exact engine, a client, and references beside it."""
