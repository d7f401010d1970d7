"""Load, latency histograms, thresholds."""
