"""A matrix of engines, models and protocols: each deployment is started, measured and stopped, one after the other."""
