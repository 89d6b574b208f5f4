"""tidegate: API gateway and identity service whose whole state lives in NATS JetStream."""

__version__ = "0.1.0"
