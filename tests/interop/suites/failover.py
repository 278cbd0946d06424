"""Failover: our client leaves a priority and returns to it when gRPC C-core's does."""

import socket
import time

import pytest

from support import calls, servers
from support.wait import until
from support.xds import CLUSTER, GOOGLE, assignment, cluster, endpoints, listener, locality, member, route, routes

TARGET = "xds:///greeter"
AGGREGATE = GOOGLE + "envoy.extensions.clusters.aggregate.v3.ClusterConfig"


@pytest.fixture(params=[calls.mesh, calls.c_core], ids=["mesh", "c-core"])
def client(request):
    return request.param()


@pytest.fixture
def backends(programs):
    return [servers.c_core_echo(programs) for _ in range(3)]


def priorities(*sets):
    """An assignment with these endpoints in each priority."""
    return assignment(
        "greeter", *(locality(f"p{number}", *members, priority=number) for number, members in enumerate(sets))
    )


@pytest.fixture
def traffic(programs, serve):
    """Calls that go on while the test goes on, and what they came to so far."""

    def start(client, *clusters):
        """The cluster of the name `greeter` is called; it is there by itself if only its assignment is given."""
        clusters = clusters if len(clusters) > 1 else (cluster("greeter"), *clusters)
        config = serve(listener("greeter"), routes("greeter", route("greeter")), *clusters)
        return Traffic(calls.start(programs, client, TARGET, bootstrap=config, count=6000, rate=100, each=True))

    return start


def aggregate(name, *clusters):
    """A cluster that is those of these names, each taken when those before it cannot serve (A37)."""
    kind = {"name": "envoy.clusters.aggregate", "typed_config": {"@type": AGGREGATE, "clusters": list(clusters)}}
    return {"@type": CLUSTER, "name": name, "cluster_type": kind}


def leaf(name, *addresses):
    return [cluster(name), endpoints(name, *addresses)]


class Traffic:
    def __init__(self, program):
        self.program = program

    def goes_to(self, server, within=20):
        """Waits until the calls of a quarter of a second all went to one endpoint, answered; their number so far."""
        address = getattr(server, "address", server)
        settled = lambda: (last := self.lines()[-25:])[24:] and all(
            line["code"] == "OK" and line["endpoint"] == address for line in last
        )
        until(settled, within, f"all calls at {address}")
        return len(self.lines())

    def fails(self, within=20):
        until(
            lambda: (last := self.lines()[-25:])[24:] and all(line["code"] != "OK" for line in last), within, "failures"
        )

    def lines(self):
        return self.program.json_lines()

    def failed(self):
        return [line for line in self.lines() if line["code"] != "OK"]


def test_calls_leave_a_priority_that_is_down_and_return_when_it_is_up(programs, traffic, backends, client):
    first, second, _ = backends
    running = traffic(client, priorities([first.address], [second.address]))
    running.goes_to(first)
    first.kill()
    running.goes_to(second)
    servers.c_core_echo(programs, first.address)
    running.goes_to(first)
    # Those that were under way to the server that was killed, and those until another was connected.
    assert len(running.failed()) < 50


def test_priority_serves_while_one_of_its_endpoints_does(traffic, backends, client):
    first, second, third = backends
    running = traffic(client, priorities([first.address, second.address], [third.address]))
    until(lambda: len(running.lines()) > 50, 20, "the first calls")
    first.kill()
    running.goes_to(second)
    assert third.address not in {line["endpoint"] for line in running.lines()}
    second.kill()
    running.goes_to(third)


def test_calls_fail_while_all_priorities_are_down(programs, traffic, backends, client):
    first, second, _ = backends
    running = traffic(client, priorities([first.address], [second.address]))
    running.goes_to(first)
    first.kill()
    second.kill()
    running.fails()
    servers.c_core_echo(programs, second.address)
    running.goes_to(second, within=30)


def test_health_set_by_the_control_plane_moves_calls(folder, traffic, backends, client):
    first, second, _ = backends
    running = traffic(client, priorities([first.address], [second.address]))
    running.goes_to(first)
    for status in ("UNHEALTHY", "DRAINING"):
        folder.put(priorities([member(first.address, health_status=status)], [second.address]))
        running.goes_to(second)
        folder.put(priorities([first.address], [second.address]))
        running.goes_to(first)
    assert running.failed() == []


def test_priorities_can_be_added_swapped_and_removed(folder, traffic, backends, client):
    first, second, third = (backend.address for backend in backends)
    running = traffic(client, priorities([first]))
    running.goes_to(first)
    for sets, place in (([[second], [first]], second), ([[first], [second], [third]], first), ([[third]], third)):
        folder.put(priorities(*sets))
        running.goes_to(place)
    assert running.failed() == []


def test_endpoint_that_accepts_and_says_nothing_is_left_after_10_s(traffic, backends, client):
    """It is neither up nor down until the failover timer ends the wait (A56)."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        running = traffic(client, priorities([address], [backends[0].address]))
        running.goes_to(backends[0], within=30)
        assert 5 < time.monotonic() - begin < 16


def test_aggregate_is_served_by_the_first_of_its_clusters_that_can(programs, traffic, backends, client):
    first, second, _ = backends
    leaves = [*leaf("a", first.address), *leaf("b", second.address)]
    running = traffic(client, aggregate("greeter", "a", "b"), *leaves)
    running.goes_to(first)
    first.kill()
    running.goes_to(second)
    servers.c_core_echo(programs, first.address)
    running.goes_to(first)


def test_aggregate_of_aggregates_is_one_list(traffic, backends, client):
    first, second, third = backends
    leaves = [part for name, at in zip("abc", backends) for part in leaf(name, at.address)]
    running = traffic(client, aggregate("greeter", "inner", "c"), aggregate("inner", "b", "a"), *leaves)
    running.goes_to(second)
    second.kill()
    running.goes_to(first)
    first.kill()
    running.goes_to(third)


def test_aggregate_follows_its_list(folder, traffic, backends, client):
    first, second, third = backends
    leaves = [part for name, at in zip("abc", backends) for part in leaf(name, at.address)]
    running = traffic(client, aggregate("greeter", "a", "b"), *leaves)
    running.goes_to(first)
    for clusters, place in ((["b", "a"], second), (["c"], third), (["c", "a"], third), (["a"], first)):
        folder.put(aggregate("greeter", *clusters))
        running.goes_to(place)
    assert running.failed() == []


def test_priorities_of_a_leaf_come_before_the_next_leaf(traffic, backends, client):
    first, second, third = backends
    with_two = assignment("a", locality("p0", first.address), locality("p1", second.address, priority=1))
    running = traffic(client, aggregate("greeter", "a", "b"), cluster("a"), with_two, *leaf("b", third.address))
    running.goes_to(first)
    first.kill()
    running.goes_to(second)
    second.kill()
    running.goes_to(third)
