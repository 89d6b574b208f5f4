"""Creates the streams: the two buckets, the audit log, the outbox, and the counters."""

from __future__ import annotations

from typing import Any

from tidegate.store.connection import ApiError
from tidegate.store.schema import Context

_DAY_NS = 24 * 3600 * 1_000_000_000
_NAME_IN_USE = 10058


def _bucket(name: str, extra_subjects: list[str]) -> dict[str, Any]:
    # No roll-ups and no purge: with either, whoever may write one key could wipe them all.
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>", f"tg.{name}.event.>", *extra_subjects],
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": False,
        "deny_purge": True,
    }


def _audited(bucket: str) -> dict[str, Any]:
    """Events of `bucket`, under their subject without the commit id at its end."""
    kept = ".".join(f"{{{{wildcard({place})}}}}" for place in range(1, 6))
    return {
        "name": f"KV_{bucket}",
        "subject_transforms": [
            {"src": f"tg.{bucket}.event.*.*.*.*.*.*", "dest": f"tg.{bucket}.event.{kept}"}
        ],
    }


def _streams(audit_max_age_days: int, replicas: int) -> list[dict[str, Any]]:
    return [
        _bucket("iam", ["tg.iam.mail.>"]),
        _bucket("routing", []),
        {
            "name": "AUDIT",
            "storage": "file",
            "deny_delete": True,
            "deny_purge": True,
            "max_age": audit_max_age_days * _DAY_NS,
            "sources": [_audited("iam"), _audited("routing")],
        },
        {
            "name": "MAIL",
            "storage": "file",
            "retention": "workqueue",
            "max_age": 2 * _DAY_NS,
            "sources": [{"name": "KV_iam", "filter_subject": "tg.iam.mail.>"}],
        },
        # The newest message of a counter holds its total; the older ones would only fill up.
        {
            "name": "LIMITS",
            "subjects": ["tg.limit.>"],
            # A lone server that restarts forgets a stream in memory, configuration and all.
            "storage": "memory" if replicas > 1 else "file",
            "allow_msg_counter": True,
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "max_age": _DAY_NS // 24,
        },
        {
            "name": "QUOTA",
            "subjects": ["tg.quota.>"],
            "storage": "file",
            "allow_msg_counter": True,
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "max_age": 3 * _DAY_NS,
        },
    ]


async def apply(context: Context) -> None:
    replicas = context.settings.replicas
    for config in _streams(context.settings.audit_max_age_days, replicas):
        try:
            await context.connection.api(
                f"STREAM.CREATE.{config['name']}", config | {"num_replicas": replicas}
            )
        except ApiError as exc:
            # There already, made by an earlier try with other settings: it stays as it is.
            if exc.err_code != _NAME_IN_USE:
                raise
