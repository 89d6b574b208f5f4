"""Access: rights, roles, assignments and tenants, and the pure decision over them."""
