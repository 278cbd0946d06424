"""Our client on an ADS server that we did not write the encoder of: routes, NACKs, and servers that misbehave."""

import time

import pytest
from google.protobuf import any_pb2

from support import calls, servers, xds
from support.ads import AdsServer
from support.wait import until
from support.xds import bootstrap, cluster, endpoints, listener, route, routes, service

TARGET = "xds:///greeter"


@pytest.fixture
def backends(programs):
    return [servers.c_core_echo(programs) for _ in range(2)]


@pytest.fixture
def ads(tmp_path):
    server = AdsServer().start()
    yield server
    server.stop()


@pytest.fixture
def config(ads, tmp_path):
    return bootstrap(tmp_path, ads.address)


def _routed(ads, backends, *entries):
    """Serves clusters `first` and `second`, an endpoint each, behind these routes."""
    ads.put(listener("greeter"), routes("greeter", *entries))
    for name, backend in zip(("first", "second"), backends):
        ads.put(cluster(name), endpoints(name, backend.address))


MATCHES = {
    "exact path": {"path": "/interop.Echo/Say"},
    "prefix": {"prefix": "/interop.Echo/"},
    "regex of the whole path": {"safe_regex": {"regex": "/interop[.]Echo/S.y"}},
    "path in another case": {"path": "/INTEROP.Echo/say", "case_sensitive": False},
    "header prefix": {"prefix": "/", "headers": [{"name": "x-user", "string_match": {"prefix": "al"}}]},
    "header range": {"prefix": "/", "headers": [{"name": "x-number", "range_match": {"start": 5, "end": 10}}]},
    "header absent": {"prefix": "/", "headers": [{"name": "x-absent", "present_match": False}]},
    "always, by fraction": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 100}}},
}
MISSES = {
    "other path": {"path": "/interop.Echo/Other"},
    "other prefix": {"prefix": "/other."},
    "regex of a part of the path": {"safe_regex": {"regex": "/interop[.]Echo"}},
    "header of another value": {"prefix": "/", "headers": [{"name": "x-user", "string_match": {"exact": "al"}}]},
    "header out of range": {"prefix": "/", "headers": [{"name": "x-number", "range_match": {"start": 8, "end": 10}}]},
    "absent header, inverted": {
        "prefix": "/",
        "headers": [{"name": "x-absent", "string_match": {"exact": "a"}, "invert_match": True}],
    },
    "never, by fraction": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 0}}},
}


@pytest.mark.parametrize(
    "match, wanted",
    [*((match, 1) for match in MATCHES.values()), *((match, 0) for match in MISSES.values())],
    ids=[*MATCHES, *MISSES],
)
def test_route_match(programs, ads, config, backends, client, match, wanted):
    _routed(ads, backends, route("second", **match), route("first"))
    sent = {"x-user": "alice", "x-number": "7"}
    done = calls.call(programs, client, TARGET, bootstrap=config, count=10, headers=sent)
    assert done.codes == {"OK": 10}
    assert done.endpoints == {backends[wanted].address: 10}


def test_weights_divide_the_calls(programs, ads, config, backends, client):
    _routed(ads, backends, route({"first": 3, "second": 1}))
    done = calls.call(programs, client, TARGET, bootstrap=config, count=4000, concurrency=8)
    assert done.share(backends[1].address) == pytest.approx(0.25, abs=0.04)


def test_changed_resources_are_acknowledged_and_used(programs, ads, config, backends, client):
    ads.put(*service("greeter", backends[0].address))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=400, rate=100, each=True)
    ads.wait_acked(xds.ENDPOINTS, within=20)
    until(lambda: len(running.json_lines()) > 50, 20, "the first calls")
    ads.put(endpoints("greeter", backends[1].address))
    ads.wait_acked(xds.ENDPOINTS)
    done = calls.summary(running)
    assert done.codes == {"OK": 400}
    assert [each["endpoint"] for each in done.each[-100:]] == [backends[1].address] * 100


BAD = {
    "port 70000": (endpoints("greeter", "127.0.0.1:70000"), "port"),
    "broken regex": (routes("greeter", route("greeter", safe_regex={"regex": "[a"})), "regex"),
    "no path in a match": (routes("greeter", route("greeter", headers=[])), "match"),
    "weights that are all 0": (routes("greeter", route({"greeter": 0})), "weight"),
    "no source of endpoints": (cluster("greeter", eds_cluster_config={}), "eds"),
    "negative interval": (cluster("greeter", outlier_detection={"interval": "-1s"}), "outlier_detection"),
}


@pytest.mark.parametrize("bad, field", BAD.values(), ids=BAD)
def test_refusal_names_the_resource_and_the_field(programs, ads, config, backends, client, bad, field):
    """And what was good goes on: a refused update never stops traffic."""
    ads.put(*service("greeter", backends[0].address))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=300, rate=100)
    until(lambda: servers.calls_taken(backends[0]) > 20, 20, "the first calls")
    ads.put(bad)
    text = ads.nack(bad["@type"])
    print(text)
    assert "greeter" in text and field in text.lower()
    assert len(text) < 1000 and "\n\n" not in text
    assert calls.summary(running).codes == {"OK": 300}


def test_first_answer_that_is_bad_fails_calls_with_its_reason(programs, ads, config, client):
    ads.put(listener("greeter"), routes("greeter", route("greeter", safe_regex={"regex": "[a"})))
    done = calls.call(programs, client, TARGET, bootstrap=config, deadline="10s")
    assert done.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert "regex" in ads.nack(xds.ROUTES)
    assert done.code == "DEADLINE_EXCEEDED" or "regex" in done.message


GARBAGE = {
    "bytes that are no message": any_pb2.Any(type_url=xds.ENDPOINTS, value=b"\xff\xff\xff\xff"),
    "a message of another type": any_pb2.Any(type_url=xds.GOOGLE + "not.a.Type", value=b"\x0a\x01a"),
    "nothing": any_pb2.Any(),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_and_harms_nobody(programs, ads, config, backends, client, garbage):
    ads.put(*service("greeter", backends[0].address))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=400, rate=100, each=True)
    until(lambda: len(running.json_lines()) > 20, 20, "the first calls")
    ads.put_any(xds.ENDPOINTS, "greeter", garbage)
    assert ads.nack(xds.ENDPOINTS)
    ads.put(endpoints("greeter", backends[1].address))
    ads.wait_acked(xds.ENDPOINTS)
    done = calls.summary(running)
    assert done.codes == {"OK": 400}
    assert done.each[-1]["endpoint"] == backends[1].address


def test_silent_server_ends_at_the_deadline(programs, ads, config, client):
    ads.silent = {xds.LISTENER}
    done = calls.call(programs, client, TARGET, bootstrap=config, deadline="2s", within=20)
    assert done.code == "DEADLINE_EXCEEDED"
    assert done.max_ms < 4000


def test_silent_server_ends_without_a_deadline(programs, ads, config, client):
    """15 s after it was asked for, a resource does not exist (A57)."""
    ads.silent = {xds.LISTENER}
    done = calls.call(programs, client, TARGET, bootstrap=config, deadline="0s", within=40)
    assert done.code == "UNAVAILABLE"
    assert "greeter" in done.message
    assert done.max_ms < 25_000


def test_missing_cluster_is_named(programs, ads, config, client):
    ads.put(listener("greeter"), routes("greeter", route("nowhere")))
    ads.silent = {xds.CLUSTER}
    done = calls.call(programs, client, TARGET, bootstrap=config, deadline="0s", within=40)
    assert done.code == "UNAVAILABLE"
    assert "nowhere" in done.message
    assert done.max_ms < 25_000


def test_server_that_closes_its_streams_stops_no_call(programs, ads, config, backends, client):
    ads.put(*service("greeter", backends[0].address))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=800, rate=100, each=True)
    for _ in range(3):
        opened = ads.opened
        until(lambda: len(ads.streams) == 1 and ads.opened > 0, 20, "a stream")
        time.sleep(0.2)
        ads.close_streams()
        until(lambda: ads.opened > opened, 20, "the next stream")
    ads.put(endpoints("greeter", backends[1].address))
    done = calls.summary(running)
    assert done.codes == {"OK": 800}
    assert done.each[-1]["endpoint"] == backends[1].address


def test_server_that_restarts_stops_no_call_and_is_found_again(programs, ads, config, backends, client):
    ads.put(*service("greeter", backends[0].address))
    running = calls.start(programs, client, TARGET, bootstrap=config, count=1200, rate=100, each=True)
    until(lambda: len(running.json_lines()) > 20, 20, "the first calls")
    ads.stop()
    time.sleep(2)
    ads.put(endpoints("greeter", backends[1].address))
    ads.start()
    done = calls.summary(running)
    assert done.codes == {"OK": 1200}
    assert done.each[-1]["endpoint"] == backends[1].address
    again = [seen for seen in ads.requests if seen.stream > 1]
    assert all(seen.names for seen in again if seen.type in (xds.LISTENER, xds.CLUSTER)), "an empty first list means all"


def test_no_control_plane_ends_without_a_deadline(programs, tmp_path, client):
    config = bootstrap(tmp_path, "127.0.0.1:1")
    done = calls.call(programs, client, TARGET, bootstrap=config, deadline="0s", within=40)
    assert done.code == "UNAVAILABLE"
    assert done.max_ms < 25_000
