"""Users: who they are, how they prove it, and the mail that reaches them.

Knows nothing of sessions and rights; what spans those domains is composed in `flows`.
"""
