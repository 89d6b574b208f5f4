"""Every metric, in one table.

Names are for ever; labels have few values: route templates, never paths, and no ids.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUESTS = Counter(
    "tidegate_requests_total", "Requests answered.", ["method", "route", "status", "service"]
)
REQUEST_SECONDS = Histogram(
    "tidegate_request_duration_seconds", "Time to answer.", ["route"], buckets=_FAST_S
)
AUTH_FAILURES = Counter("tidegate_auth_failures_total", "Requests not authenticated.", ["reason"])
AUTHZ_DENIALS = Counter("tidegate_authz_denials_total", "Requests not allowed.", ["reason"])
SIGNINS = Counter("tidegate_signins_total", "Sign-ins.", ["method", "result"])
HASH_QUEUE = Gauge("tidegate_password_hash_queue", "Password hashes waiting or running.")
HASH_SECONDS = Histogram("tidegate_password_hash_seconds", "Time of one password hash.")
ROUTING_MISSES = Counter(
    "tidegate_routing_misses_total", "Requests with nowhere to go.", ["kind", "reason"]
)
UPSTREAM_REQUESTS = Counter(
    "tidegate_upstream_requests_total", "Calls to upstreams.", ["kind", "result"]
)
UPSTREAM_SECONDS = Histogram(
    "tidegate_upstream_duration_seconds", "Time of upstream calls.", ["kind"], buckets=_FAST_S
)
UPSTREAM_RETRIES = Counter("tidegate_upstream_retries_total", "Upstream calls repeated.", ["kind"])
VIEW_REVISION = Gauge("tidegate_view_revision", "Revision applied.", ["view"])
VIEW_LAG_SECONDS = Gauge(
    "tidegate_view_lag_seconds", "Time since the change feed was last heard.", ["view"]
)
VIEW_BEHIND_MESSAGES = Gauge(
    "tidegate_view_behind_messages", "Stream messages not applied when last looked.", ["view"]
)
VIEW_REJECTED = Counter("tidegate_view_rejected_total", "Entries that a view refused.", ["view"])
FEED_RESTARTS = Counter(
    "tidegate_feed_restarts_total", "Change feeds set up again.", ["view", "reason"]
)
COMMITS = Counter("tidegate_commits_total", "Commits, lease renewals included.", ["result"])
COMMIT_ANSWERS_LOST = Counter(
    "tidegate_commit_answers_lost_total", "Commits sent again because no answer came."
)
COMMIT_SECONDS = Histogram("tidegate_commit_duration_seconds", "Commit time.", buckets=_FAST_S)
COMMIT_CONFLICTS = Counter(
    "tidegate_commit_conflicts_total", "Decisions made again after a conflict."
)
LEASE_HELD = Gauge("tidegate_lease_held", "1 while the lease of this replica holds.")
BARRIER_SECONDS = Histogram(
    "tidegate_barrier_duration_seconds",
    "Time until a change held on every replica; additions wait a second at most.",
    ["effect"],
    buckets=(*_FAST_S, 20),
)
BARRIERS = Counter("tidegate_barriers_total", "Changes that waited for replicas.", ["result"])
ON_DEMAND_LOADS = Counter(
    "tidegate_on_demand_loads_total", "Reads of what was not in memory.", ["view", "result"]
)
ON_DEMAND_ENTRIES = Gauge(
    "tidegate_on_demand_entries", "Owners of what is held in memory.", ["view"]
)
MAILS = Counter(
    "tidegate_mails_total",
    "Mails by what came of each try; `paused`: none could be fetched.",
    ["result"],
)
NATS_ERRORS = Counter("tidegate_nats_errors_total", "Asynchronous errors of the NATS client.")
NATS_RECONNECTS = Counter("tidegate_nats_reconnects_total", "Reconnects to NATS.")
BUILD_INFO = Gauge("tidegate_build_info", "Always 1.", ["version", "git_revision"])


def exposition() -> bytes:
    """All metrics in the Prometheus text format."""
    return generate_latest(REGISTRY)
