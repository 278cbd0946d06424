"""Envoy's own ADS client takes what our control plane serves, and calls pass through it."""

import pytest

from support import calls, servers
from support.envoy import Envoy, fixed_cluster
from support.wait import until
from support.xds import ADS, HTTP2, cluster, endpoints, rds, route, routes, socket_listener


@pytest.fixture
def backends(programs):
    return [servers.c_core_echo(programs) for _ in range(2)]


@pytest.fixture
def control_plane(programs, folder, backends):
    folder.put(
        socket_listener("in", codec_type="HTTP2", **rds("greeter")),
        routes("greeter", route("greeter")),
        cluster("greeter", typed_extension_protocol_options=HTTP2),
        endpoints("greeter", backends[0].address),
    )
    return servers.control_plane(programs, folder)


@pytest.fixture
def envoy(programs, control_plane):
    """An Envoy that has everything by ADS."""
    grpc = [{"envoy_grpc": {"cluster_name": "ads"}}]
    ads = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": grpc}
    config = {
        "node": {"id": "envoy", "cluster": "envoy"},
        "dynamic_resources": {"ads_config": ads, "lds_config": ADS, "cds_config": ADS},
        "static_resources": {"clusters": [fixed_cluster("ads", control_plane.address)]},
    }
    return Envoy(programs, config)


def test_all_four_types_are_accepted(programs, backends, envoy):
    listener = until(lambda: envoy.listener("in"), 10, "the listener")
    dump = envoy.config()
    for part in ("dynamic_listeners", "dynamic_route_configs", "dynamic_active_clusters", backends[0].address[10:]):
        assert part in dump
    for kind in ("listener_manager.lds", "cluster_manager.cds"):
        assert envoy.counter(f"{kind}.update_rejected") == 0
        assert envoy.counter(f"{kind}.update_success") >= 1
    done = calls.call(programs, calls.c_core(), f"static:///{listener}", count=100)
    assert done.codes == {"OK": 100}
    assert servers.calls_taken(backends[0]) == 100


def test_our_client_calls_through_it(programs, backends, envoy, client):
    listener = until(lambda: envoy.listener("in"), 10, "the listener")
    done = calls.call(programs, client, f"static:///{listener}", count=100, data=b"through")
    assert done.codes == {"OK": 100}


def test_changes_reach_it(programs, folder, backends, envoy):
    listener = until(lambda: envoy.listener("in"), 10, "the listener")
    folder.put(endpoints("greeter", backends[1].address))
    moved = f'"port_value": {backends[1].address.rsplit(":", 1)[1]}'
    until(lambda: moved in envoy.config(), 10, "the new endpoint")
    done = calls.call(programs, calls.c_core(), f"static:///{listener}", count=50)
    assert done.codes == {"OK": 50}
    assert done.endpoints == {backends[1].address: 50}


def test_refusal_is_shown_by_the_control_plane(folder, control_plane, envoy):
    """Envoy refuses a table that has one domain twice, and says so."""
    until(lambda: envoy.listener("in"), 10, "the listener")
    twice = routes("greeter", route("greeter"))
    twice["virtual_hosts"].append(twice["virtual_hosts"][0] | {"name": "again"})
    folder.put(twice)
    refused = until(lambda: servers.nacks(control_plane), 10, "a NACK")
    assert "domain" in str(refused[0])
