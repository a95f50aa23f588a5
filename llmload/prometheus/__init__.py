"""A run's totals as Prometheus series, the engine's and the GPUs' own series, and the Grafana dashboard as code."""
