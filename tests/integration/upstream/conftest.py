"""Real nodes on loopback, and the context of a call."""

from __future__ import annotations

import datetime as dt
import ipaddress
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tidegate.kernel.clock import SystemClock
from tidegate.upstream.aggregates import Aggregates
from tidegate.upstream.call import CallContext
from tidegate.upstream.projections import Projections
from tidegate.upstream.settings import Settings


class Certificate(NamedTuple):
    """A certificate of 127.0.0.1 that is its own authority, and its key."""

    certificate_file: Path
    key_file: Path


@pytest.fixture
def context() -> Callable[..., CallContext]:
    def make(deadline_s: float = 20.0) -> CallContext:
        return CallContext(
            tenant_id="acme",
            principal_id="principal-1",
            principal_kind="user",
            session_id="session-1",
            correlation_id="correlation-1",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="vendor=1",
            deadline_s=deadline_s,
        )

    return make


@pytest.fixture
def aggregates() -> Callable[..., Aggregates]:
    def make(**settings: object) -> Aggregates:
        return Aggregates(_settings(**settings), SystemClock(), random.Random(7))

    return make


@pytest.fixture
def projections() -> Callable[..., Projections]:
    def make(**settings: object) -> Projections:
        return Projections(_settings(**settings), SystemClock(), random.Random(7))

    return make


def _settings(**settings: object) -> Settings:
    return Settings.model_validate({"total_timeout_s": 30, **settings})


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = tmp_path / "node.crt", tmp_path / "node.key"
    certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificate(certificate_file, key_file)
