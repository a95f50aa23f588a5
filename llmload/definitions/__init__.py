"""A run's records by the definitions of other load generators, in their words and layout: docs/definitions.md."""
