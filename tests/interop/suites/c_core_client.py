"""Our control plane configures gRPC C-core's client, beside ours: same bootstrap, same servers, same results."""

import base64

import pytest

from support import calls, servers
from support.wait import until
from support.xds import cluster, endpoints, listener, route, routes, service

TARGET = "xds:///greeter"


@pytest.fixture(params=[calls.mesh, calls.c_core], ids=["mesh", "c-core"])
def client(request):
    return request.param()


@pytest.fixture
def backends(programs):
    return [servers.c_core_echo(programs) for _ in range(2)]


def _two_clusters(backends, *entries):
    sets = [("first", backends[0]), ("second", backends[1])]
    both = [part for name, backend in sets for part in (cluster(name), endpoints(name, backend.address))]
    return [listener("greeter"), routes("greeter", *entries), *both]


def test_calls_are_answered_by_all_endpoints_in_turn(programs, serve, backends, client):
    config = serve(*service("greeter", *(backend.address for backend in backends)))
    done = calls.call(programs, client, TARGET, bootstrap=config, count=1000, concurrency=4)
    assert done.codes == {"OK": 1000}
    taken = [servers.calls_taken(backend) for backend in backends]
    assert taken == [done.endpoints[backend.address] for backend in backends]
    assert min(taken) >= 450


def test_reply_and_metadata_pass_as_they_are(programs, serve, backends, client):
    config = serve(*service("greeter", backends[0].address))
    done = calls.call(programs, client, TARGET, bootstrap=config, data=b"\x00\x01any bytes\xff")
    assert (done.code, done.reply) == ("OK", b"\x00\x01any bytes\xff")
    asked = {"echo-status": "5", "echo-message-bin": base64.b64encode("no such café".encode()).decode()}
    done = calls.call(programs, client, TARGET, bootstrap=config, headers=asked)
    assert (done.code, done.message) == ("NOT_FOUND", "no such café")


def test_header_chooses_the_cluster(programs, serve, backends, client):
    beta = {"prefix": "/", "headers": [{"name": "x-group", "string_match": {"exact": "beta"}}]}
    config = serve(*_two_clusters(backends, route("second", **beta), route("first")))
    plain = calls.call(programs, client, TARGET, bootstrap=config, count=50)
    marked = calls.call(programs, client, TARGET, bootstrap=config, count=50, headers={"x-group": "beta"})
    assert plain.endpoints == {backends[0].address: 50}
    assert marked.endpoints == {backends[1].address: 50}


def test_canary_takes_its_share_of_20000_calls(programs, serve, backends, client):
    config = serve(*_two_clusters(backends, route({"first": 90, "second": 10})))
    done = calls.call(programs, client, TARGET, bootstrap=config, count=20_000, concurrency=16, within=100)
    assert done.codes == {"OK": 20_000}
    assert done.share(backends[1].address) == pytest.approx(0.10, abs=0.02)
    assert servers.calls_taken(backends[1]) == done.endpoints[backends[1].address]


def test_edit_of_the_folder_moves_running_traffic(programs, folder, serve, backends, client):
    first, second = (backend.address for backend in backends)
    config = serve(*service("greeter", first))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=600, rate=100, each=True)
    until(lambda: len(running.json_lines()) > 100, 20, "the first calls")
    folder.put(endpoints("greeter", second))
    done = calls.summary(running)
    assert done.codes == {"OK": 600}
    assert set(done.endpoints) == {first, second}
    assert [each["endpoint"] for each in done.each[-200:]] == [second] * 200


def test_broken_edit_changes_nothing(programs, folder, serve, backends, client):
    config = serve(*service("greeter", backends[0].address))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=400, rate=100)
    until(lambda: servers.calls_taken(backends[0]) > 50, 20, "the first calls")
    (folder.path / "broken.yaml").write_text("name: [")
    assert calls.summary(running).codes == {"OK": 400}
