"""Calls to the platform's nodes: connections, endpoint choice, retries, transports.

This package carries out what was decided above it. It knows no policy, and no type of the
edges: it takes endpoints and a call, and gives an answer or a refusal.
"""
