"""k2run seen from outside: metrics of its runs for Prometheus, and spans for OpenTelemetry."""
