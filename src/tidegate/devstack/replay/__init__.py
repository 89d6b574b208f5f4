"""Replaying a file of things that happened, as commands of a signed-in user.

rows ──▶ sending (lanes keep each aggregate's order) ──▶ tally
             └── sender (retries, tokens)                 └──▶ agreement with the projection
"""
