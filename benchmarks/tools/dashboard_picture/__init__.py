"""A picture of the dashboard where no Grafana is at hand: its JSON, a real Prometheus' answers, a real browser."""
