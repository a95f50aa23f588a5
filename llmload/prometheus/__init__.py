"""While a run goes on: totals as Prometheus series, the engine's and the GPUs' own, dashboards as code."""
