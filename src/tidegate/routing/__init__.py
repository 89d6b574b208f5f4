"""Where a tenant's requests go: tables of placements and shards, and how they change.

A request takes one `Routing` snapshot and uses it from start to end. This package opens no
connection to an upstream.
"""
