"""Measurements of the product, each beside its target: `python -m bench`, with `tests` on the path.

Every script answers for itself too (`python -m bench.barrier --json`). None is a test: how long
something takes says as much about the machine as about the program.
"""
