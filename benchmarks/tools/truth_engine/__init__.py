"""An engine that writes every chunk on an exact schedule, and its log of when it did: what clients are held against."""
