"""Our server and gRPC C-core's, configured by the same control plane (A36), called by C-core's client: the same outcome."""

import copy

import grpc
import pytest

from support import servers
from support.wait import until
from support.xds import LISTENER, address, fault, manager, rds, routes

METHOD = "/grpc.testing.TestService/EmptyCall"
TEMPLATE = "server-%s"
SERVED, UNAVAILABLE, NOT_SERVING = "served", "UNAVAILABLE", "not serving"
FORWARDING = {"match": {"prefix": "/"}, "route": {"cluster": "elsewhere"}}
SERVING = {"match": {"prefix": "/"}, "non_forwarding_action": {}}


def chain(http=None, **more):
    http = http or manager(route_config=_inline(SERVING))
    return {"filters": [{"name": "http", "typed_config": http}], **more}


def _inline(*entries, domains=("*",)):
    config = routes("inline", *entries, domains=domains)
    del config["@type"]
    return config


def _matching(**match):
    return chain(filter_chain_match=match)


def _prefix(text, length):
    return {"address_prefix": text, "prefix_len": length}


_FAULT = {"name": "fault", "typed_config": fault()}
_UNKNOWN = {"name": "x", "typed_config": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": "t/x.Y"}}

# What the listener is instead of one chain that serves everything, and what becomes of a call.
ROWS = {
    "baseline": ({}, SERVED),
    "another address": ({"address": address("127.0.0.1:1")}, NOT_SERVING),
    "use_original_dst": ({"use_original_dst": True}, NOT_SERVING),
    "no chain": ({"filter_chains": []}, NOT_SERVING),
    "the default chain alone": ({"filter_chains": [], "default_filter_chain": chain()}, SERVED),
    "two chains for the same": (
        {"filter_chains": [_matching(prefix_ranges=[_prefix(p, 8)]) for p in ("127.0.0.0", "127.1.2.3")]},
        NOT_SERVING,
    ),
    "a destination": ({"filter_chains": [_matching(prefix_ranges=[_prefix("127.0.0.0", 8)])]}, SERVED),
    "another destination": ({"filter_chains": [_matching(prefix_ranges=[_prefix("10.0.0.0", 8)])]}, NOT_SERVING),
    "a source": ({"filter_chains": [_matching(source_prefix_ranges=[_prefix("127.0.0.1", 32)])]}, SERVED),
    "another source": ({"filter_chains": [_matching(source_prefix_ranges=[_prefix("10.0.0.0", 8)])]}, NOT_SERVING),
    "server_names": ({"filter_chains": [_matching(server_names=["a"])]}, NOT_SERVING),
    "application_protocols": ({"filter_chains": [_matching(application_protocols=["h2"])]}, NOT_SERVING),
    "destination_port": ({"filter_chains": [_matching(destination_port=80)]}, NOT_SERVING),
    "transport_protocol tls": ({"filter_chains": [_matching(transport_protocol="tls")]}, NOT_SERVING),
    "transport_protocol raw_buffer": ({"filter_chains": [_matching(transport_protocol="raw_buffer")]}, SERVED),
    "source_type EXTERNAL": ({"filter_chains": [_matching(source_type="EXTERNAL")]}, NOT_SERVING),
    "source_type SAME_IP_OR_LOOPBACK": ({"filter_chains": [_matching(source_type="SAME_IP_OR_LOOPBACK")]}, SERVED),
    "two network filters": ({"filter_chains": [{"filters": chain()["filters"] * 2}]}, NOT_SERVING),
    "no network filter": ({"filter_chains": [{"filters": []}]}, NOT_SERVING),
    "a route that forwards": ({"filter_chains": [chain(manager(route_config=_inline(FORWARDING)))]}, UNAVAILABLE),
    "no route": ({"filter_chains": [chain(manager(route_config=_inline()))]}, UNAVAILABLE),
    "no virtual host": (
        {"filter_chains": [chain(manager(route_config=_inline(SERVING, domains=["other.test"])))]},
        UNAVAILABLE,
    ),
    "routes by name": ({"filter_chains": [chain(manager(**rds("shared")))]}, SERVED),
    "an unknown filter": ({"filter_chains": [chain(manager(_UNKNOWN, route_config=_inline(SERVING)))]}, NOT_SERVING),
    "an unknown filter, optional": (
        {"filter_chains": [chain(manager({**_UNKNOWN, "is_optional": True}, route_config=_inline(SERVING)))]},
        SERVED,
    ),
}
# A36 says NACK to listener filters, and so does grpc-go; C-core takes them. Faults have Envoy's meaning on servers, too.
ROWS_OF_OURS = {
    "listener_filters": ({"listener_filters": [{"name": "x"}]}, NOT_SERVING),
    "a fault filter": ({"filter_chains": [chain(manager(_FAULT, route_config=_inline(SERVING)))]}, SERVED),
}


def _outcome(at):
    """What a call comes to; a connection that gets no byte of HTTP/2 is not served."""
    with grpc.insecure_channel(at) as channel:
        call = channel.unary_unary(METHOD)
        try:
            call(b"", timeout=5)
            return SERVED
        except grpc.RpcError as error:
            connected = "failed to connect" not in error.details() and "Socket closed" not in error.details()
            return error.code().name if connected else NOT_SERVING


def _listener(at, **change):
    whole = {"@type": LISTENER, "name": TEMPLATE % at, "address": address(at), "filter_chains": [chain()]}
    return copy.deepcopy(whole | change)


def _run(kind, row, programs, folder, serve):
    change, expected = row
    at = servers.free_address()
    config = serve(_listener(at, **change), routes("shared", SERVING))
    servers.by_listener(programs, kind, at, config)
    if expected != NOT_SERVING:
        until(lambda: _outcome(at) == expected, 15, f"a call that is {expected}")
        return
    # What serves at once afterwards had the listener before.
    assert _outcome(at) == NOT_SERVING
    folder.put(_listener(at))
    until(lambda: _outcome(at) == SERVED, 15, "a call that is served when the listener is good")


@pytest.mark.parametrize("kind", ["mesh", "c-core"])
@pytest.mark.parametrize("row", ROWS)
def test_row(kind, row, programs, folder, serve):
    _run(kind, ROWS[row], programs, folder, serve)


@pytest.mark.parametrize("row", ROWS_OF_OURS)
def test_row_of_ours(row, programs, folder, serve):
    _run("mesh", ROWS_OF_OURS[row], programs, folder, serve)


@pytest.mark.parametrize("kind", ["mesh", "c-core"])
def test_bad_update_leaves_the_last_good_listener_serving(kind, programs, folder, serve):
    at = servers.free_address()
    config = serve(_listener(at))
    servers.by_listener(programs, kind, at, config)
    until(lambda: _outcome(at) == SERVED, 15, "a call that is served")
    folder.put(_listener(at, filter_chains=[]))
    for _ in range(20):
        assert _outcome(at) == SERVED
