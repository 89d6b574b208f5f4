"""What everything else stands on: ids, clocks, error kinds, secrets, task lifetimes.

Imports nothing of ours, so that any layer may use it.
"""
