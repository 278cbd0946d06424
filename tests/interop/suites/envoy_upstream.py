"""Our channel with Envoy as its endpoint: large messages, many streams, and draining with GOAWAY."""

import socket

import pytest

from support import calls, servers
from support.envoy import Envoy, fixed_cluster, plain
from support.wait import until
from support.xds import route, routes, socket_listener

MIB = 1024 * 1024
DRAIN_SECONDS = 5
# What a client says of a reply over its limit of 4 MiB: gRPC's word, and that of tonic's codec, which is what limits ours.
TOO_LARGE = ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE")


@pytest.fixture
def backend(programs):
    return servers.c_core_echo(programs)


@pytest.fixture
def envoy(programs, backend):
    """Starts an Envoy that passes everything to the backend."""

    def start():
        table = plain(routes("all", route("backend")))
        listener = plain(socket_listener("in", codec_type="HTTP2", route_config=table))
        resources = {"listeners": [listener], "clusters": [fixed_cluster("backend", backend.address)]}
        flags = ["--drain-time-s", DRAIN_SECONDS, "--drain-strategy", "immediate"]
        return Envoy(programs, {"static_resources": resources}, *flags)

    return start


def _target(*envoys):
    return "static:///" + ",".join(envoy.listener("in") for envoy in envoys)


def _closed(address):
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_messages_below_4_mib_pass_both_ways(programs, envoy, client):
    data = bytes(range(256)) * 4096 * 3 + bytes(900 * 1024)
    assert 3.8 * MIB < len(data) < 4 * MIB
    done = calls.call(programs, client, _target(envoy()), data=data)
    assert done.code == "OK"
    assert done.reply == data


def test_larger_replies_are_refused_by_the_client(programs, envoy, client):
    done = calls.call(programs, client, _target(envoy()), headers={"echo-size": str(5 * MIB)})
    assert done.code in TOO_LARGE


def test_larger_requests_are_refused_by_the_server(programs, envoy, client):
    done = calls.call(programs, client, _target(envoy()), data=bytes(5 * MIB))
    assert done.code == "RESOURCE_EXHAUSTED"


def test_channel_works_on_after_a_refusal(programs, envoy, client):
    """Flow control is given back for what was thrown away."""
    large = {"echo-size": str(5 * MIB)}
    done = calls.call(programs, client, _target(envoy()), count=40, concurrency=4, headers=large)
    assert done.code in TOO_LARGE
    assert done.calls == 40


def test_1000_streams_at_once(programs, envoy, backend, client):
    between = envoy()
    slow = {"echo-delay": "10"}
    running = calls.start(programs, client, _target(between), count=1000, concurrency=1000, headers=slow)
    until(lambda: between.counter("http.interop.downstream_rq_active") == 1000, 30, "1000 streams that are open together")
    assert calls.summary(running).codes == {"OK": 1000}
    assert servers.calls_taken(backend) == 1000


def test_drained_envoy_fails_no_call(programs, envoy, client):
    """It sends GOAWAY while calls run, and closes its port some seconds later."""
    leaving, staying = envoy(), envoy()
    target, slow = _target(leaving, staying), {"echo-delay": "0.3"}
    running = calls.start(programs, client, target, count=2400, rate=200, deadline="10s", each=True, headers=slow)
    until(lambda: len(running.json_lines()) > 300, 20, "the first calls")
    leaving.admin("/drain_listeners?graceful", method="POST")
    until(lambda: _closed(leaving.listener("in")), 3 * DRAIN_SECONDS, "the end of draining")
    taken = leaving.counter("http.interop.downstream_rq_total")
    assert calls.summary(running).codes == {"OK": 2400}
    assert leaving.counter("http.interop.downstream_cx_drain_close") > 0
    # Counters lag: calls that were running when the port closed may be counted after it.
    assert 100 < leaving.counter("http.interop.downstream_rq_total") <= taken + 60
    assert staying.counter("http.interop.downstream_rq_total") > 1000
