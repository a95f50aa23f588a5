"""An engine that writes chunks on an exact schedule and logs when it did: the truth that clients are compared with."""
