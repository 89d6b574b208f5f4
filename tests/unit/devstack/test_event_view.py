from tidegate.devstack.nodes.event_view import Count, EventView
from tidegate.devstack.nodes.events import AggregateKey
from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event


def key(aggregate_id: str, *, tenant: str = "acme", aggregate_type: str = "order") -> AggregateKey:
    return AggregateKey(tenant, aggregate_type, aggregate_id)


def test_counts_are_per_aggregate_and_event_type_in_order() -> None:
    view = EventView()
    for aggregate_id, event_type in [("b", "paid"), ("a", "paid"), ("b", "paid"), ("b", "made")]:
        view.apply(key(aggregate_id), Event(event_type=event_type))
    assert view.counts("acme", "order") == [
        Count("a", "paid", 1),
        Count("b", "made", 1),
        Count("b", "paid", 2),
    ]


def test_tenants_and_types_are_apart() -> None:
    view = EventView()
    view.apply(key("a"), Event(event_type="made", version=1))
    assert view.counts("globex", "order") == []
    assert view.counts("acme", "invoice") == []
    assert view.aggregate(key("a", tenant="globex")).version == 0
    assert view.aggregate(key("a", aggregate_type="invoice")).version == 0


def test_an_aggregate_is_listed_with_its_latest_version() -> None:
    view = EventView()
    events = [Event(event_id=f"e-{version}", version=version) for version in (1, 2)]
    for event in events:
        view.apply(key("a"), event)
    history = view.aggregate(key("a"))
    assert history.version == 2
    assert list(history.events) == events


def test_a_long_history_lists_its_last_events_and_counts_all() -> None:
    view = EventView()
    for version in range(1, 251):
        view.apply(key("a"), Event(event_type="made", version=version))
    history = view.aggregate(key("a"))
    assert [event.version for event in history.events] == list(range(151, 251))
    assert view.counts("acme", "order") == [Count("a", "made", 250)]


def test_asking_leaves_no_trace() -> None:
    view = EventView()
    view.aggregate(key("a"))
    view.counts("acme", "order")
    assert view.counts("acme", "order") == []


def test_a_cleared_view_knows_nothing() -> None:
    view = EventView()
    view.apply(key("a"), Event(event_type="made", version=1))
    view.clear()
    assert view.counts("acme", "order") == []
    assert view.aggregate(key("a")).version == 0
