"""A picture of the dashboard without Grafana: its JSON, answers of a real Prometheus, a real browser."""
