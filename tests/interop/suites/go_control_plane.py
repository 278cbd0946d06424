"""Our client on go-control-plane: weights, an endpoint changed, and its habit of sending what was refused again at once."""

import time

import pytest

from support import calls, servers
from support.wait import until
from support.xds import ENDPOINTS, bootstrap, cluster, endpoints, listener, route, routes, service

TARGET = "xds:///greeter"


@pytest.fixture
def backends(programs):
    return [servers.go_echo(programs).address for _ in range(2)]


@pytest.fixture(params=["linear", "snapshot"])
def serve(request, programs, folder, tmp_path):
    """go-control-plane on the folder, with one of its two kinds of cache; the program and the bootstrap for it."""

    def start(*resources):
        folder.put(*resources)
        program = servers.go_control_plane(programs, folder, mode=request.param)
        return program, bootstrap(tmp_path, program.address)

    return start


def test_weights_divide_the_calls(programs, serve, backends, client):
    clusters = [part for name, at in zip("ab", backends) for part in (cluster(name), endpoints(name, at))]
    _, config = serve(listener("greeter"), routes("greeter", route({"a": 75, "b": 25})), *clusters)
    done = calls.call(programs, client, TARGET, bootstrap=config, count=4000, concurrency=8)
    assert done.codes == {"OK": 4000}
    assert done.share(backends[1]) == pytest.approx(0.25, abs=0.04)


def test_changed_endpoint_is_used_and_the_old_one_is_not(programs, folder, serve, backends, client):
    _, config = serve(*service("greeter", backends[0]))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=600, rate=100, each=True)
    until(lambda: len(running.json_lines()) > 50, 20, "the first calls")
    folder.put(endpoints("greeter", backends[1]))
    done = calls.summary(running)
    assert done.codes == {"OK": 600}
    assert [each["endpoint"] for each in done.each[-200:]] == [backends[1]] * 200


def test_route_to_a_new_cluster_loses_no_call(programs, folder, serve, backends, client):
    _, config = serve(*service("greeter", backends[0]))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=600, rate=100, each=True)
    until(lambda: len(running.json_lines()) > 50, 20, "the first calls")
    # The route first: until the cluster has come, calls stay where they were (A74).
    folder.put(routes("greeter", route("next")))
    time.sleep(1)
    folder.put(cluster("next"), endpoints("next", backends[1]))
    done = calls.summary(running)
    assert done.codes == {"OK": 600}
    assert done.each[-1]["endpoint"] == backends[1]


def test_refusals_are_few_though_it_resends_at_each(programs, folder, serve, backends, client):
    """C-core sent 8,520 in 2 s."""
    program, config = serve(*service("greeter", backends[0]))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=600, rate=100)
    until(lambda: any(line.get("type") == ENDPOINTS for line in program.json_lines()), 20, "a subscription")
    time.sleep(1)
    folder.put(endpoints("greeter", "127.0.0.1:70000"))
    until(lambda: servers.nacks(program), 10, "a NACK")
    time.sleep(2)
    refused = servers.nacks(program)
    assert len(refused) <= 10
    assert "greeter" in refused[0]["error"] and "port" in refused[0]["error"]
    assert calls.summary(running).codes == {"OK": 600}
