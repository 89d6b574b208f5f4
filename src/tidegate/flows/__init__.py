"""What spans domains: each flow is one decision and one commit.

Domains do not know each other; where one must react to another (a sign-in proves a password
and starts a session), the flow composes their changes, so that all of it happens or nothing.
"""
