"""Small nodes for development: a real event-sourced write side and a read side that follows it."""
