"""Listeners and translation between the wire and the gateway. Holds no rules."""
