"""Sessions: signing keys, access tokens, and the chains of refresh tokens.

Knows no passwords and no rights: it says which session of which principal a token stands for.
"""
