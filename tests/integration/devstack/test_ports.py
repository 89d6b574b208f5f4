import socket

import pytest

from tidegate.devstack.ports import HOST, Ports, PortUnavailableError


def test_any_free_ports_are_all_different_and_can_be_listened_on() -> None:
    ports = Ports.any_free(10, cluster=True).all
    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server((HOST, port)).close()


def test_they_are_none_that_an_outgoing_connection_gets() -> None:
    with socket.socket() as anywhere:
        anywhere.bind((HOST, 0))
        given = anywhere.getsockname()[1]
    assert max(Ports.any_free(10, cluster=True).all) < given


@pytest.fixture
def free_base() -> int:
    """A base from which every port is free: others run stacks too."""
    for base in range(21_000, 32_000, 32):
        try:
            Ports.from_base(base, 3, cluster=True)
        except PortUnavailableError:
            continue
        return base
    raise AssertionError("no free block of ports")


def test_from_a_base_replicas_come_first_and_everything_has_its_place(free_base: int) -> None:
    ports = Ports.from_base(free_base, 3)
    assert ports.http == (free_base, free_base + 1, free_base + 2)
    assert ports.all[3:] == tuple(free_base + place for place in range(10, 15))


def test_a_cluster_has_a_port_and_a_route_for_each_server(free_base: int) -> None:
    single, cluster = Ports.from_base(free_base, 3), Ports.from_base(free_base, 3, cluster=True)
    assert cluster.nats == tuple(free_base + place for place in (14, 15, 16))
    assert cluster.nats_routes == tuple(free_base + place for place in (17, 18, 19))
    assert cluster.all[:8] == single.all


@pytest.mark.parametrize("offset", [0, 1, 10, 14])
def test_a_port_in_use_is_named_with_the_way_out(free_base: int, offset: int) -> None:
    with (
        socket.create_server((HOST, free_base + offset)),
        pytest.raises(PortUnavailableError) as caught,
    ):
        Ports.from_base(free_base, 2)
    assert f"port {free_base + offset} cannot be used (Address already in use)" in str(caught.value)
    assert "--port-base" in str(caught.value)


def test_a_port_in_use_that_only_a_cluster_needs_disturbs_no_single_server(
    free_base: int,
) -> None:
    with socket.create_server((HOST, free_base + 19)):
        Ports.from_base(free_base, 2)
        with pytest.raises(PortUnavailableError, match=f"port {free_base + 19} "):
            Ports.from_base(free_base, 2, cluster=True)


def test_a_port_of_a_replica_that_is_not_asked_for_may_be_in_use(free_base: int) -> None:
    with socket.create_server((HOST, free_base + 2)):
        Ports.from_base(free_base, 2)
