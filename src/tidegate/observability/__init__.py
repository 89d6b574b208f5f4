"""Logs, metrics and trace context: what tidegate tells about itself. Decides nothing."""
