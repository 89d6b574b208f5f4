"""Who calls: what admission must know about a principal, read when it is first asked for."""
