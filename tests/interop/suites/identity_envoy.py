"""mTLS between ours and Envoy, in both directions: Envoy as endpoint of our client, and as client of our server."""

import pytest

from support import calls, servers
from support.envoy import Envoy, fixed_cluster, plain
from support.secured import MTLS, TLS, any_policy, rbac, upstream
from support.site import CLIENT, METHOD, NAME, SERVER, WHO_AM_I, username
from support.wait import until
from support.xds import GOOGLE, route, routes, socket_listener

ENVOY, OTHER = "spiffe://mesh.test/ns/site/sa/envoy", "spiffe://mesh.test/ns/site/sa/other"
_TLS = GOOGLE + "envoy.extensions.transport_sockets.tls.v3"
_CALLER = "x-forwarded-client-cert"


@pytest.fixture
def identity(site):
    """That of Envoy."""
    return site.authority.workload("envoy", ENVOY)


def _common(issued, *sans, own=True):
    """Envoy's TLS from files."""
    named = lambda path: {"filename": str(path)}
    validation = {"trusted_ca": named(issued.roots)}
    if sans:
        matchers = [{"san_type": "URI", "matcher": {"exact": san}} for san in sans]
        validation["match_typed_subject_alt_names"] = matchers
    pair = {"certificate_chain": named(issued.certificate), "private_key": named(issued.key)}
    return {"tls_certificates": [pair] if own else [], "validation_context": validation, "alpn_protocols": ["h2"]}


def _socket(context, **config):
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": f"{_TLS}.{context}", **config}}


# --- Envoy as the endpoint of our client


@pytest.fixture
def endpoint(programs, identity):
    """An Envoy that serves who has a certificate, and says who it is to what is behind it; and that."""

    def start(*callers):
        backend = servers.c_core_echo(programs)
        table = plain(routes("all", route("backend")))
        said = {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
        listener = plain(socket_listener("in", codec_type="HTTP2", route_config=table, **said))
        tls = _common(identity, *callers)
        socket = _socket("DownstreamTlsContext", common_tls_context=tls, require_client_certificate=True)
        listener["filter_chains"][0]["transport_socket"] = socket
        resources = {"listeners": [listener], "clusters": [fixed_cluster("backend", backend.address)]}
        return Envoy(programs, {"static_resources": resources}), backend

    return start


def test_envoy_serves_our_client_and_knows_who_it_is(site, endpoint):
    envoy, backend = endpoint(CLIENT)
    done = site.call("mesh", upstream(MTLS, ENVOY), at=envoy.listener("in"), count=50, concurrency=5)
    assert done.codes == {"OK": 50}, done
    assert f"URI={CLIENT}" in servers.last_call(backend)[_CALLER]


@pytest.mark.parametrize(
    "socket", [upstream(TLS, ENVOY), upstream(MTLS, OTHER), None], ids=["no-cert", "name", "plain"]
)
def test_neither_side_takes_less_than_it_asks_for(socket, site, endpoint):
    envoy, backend = endpoint()
    done = site.call("mesh", socket, at=envoy.listener("in"), count=5, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 5}, done
    assert servers.calls_taken(backend) == 0
    assert site.call("mesh", upstream(MTLS, ENVOY), at=envoy.listener("in")).code == "OK"


def test_envoy_refuses_a_client_of_another_name(site, endpoint):
    envoy, backend = endpoint(OTHER)
    done = site.call("mesh", upstream(MTLS, ENVOY), at=envoy.listener("in"), count=5, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 5}, done
    assert servers.calls_taken(backend) == 0
    refused = envoy.admin("/stats?filter=listener.*ssl.fail_verify_san").splitlines()
    assert sum(int(line.split(": ")[1]) for line in refused) > 0, refused


# --- Envoy as a client of our server


@pytest.fixture
def gateway(programs, site, identity):
    """An Envoy that passes calls to our server by a cluster with this TLS; and its address."""

    def start(own=True, sans=(SERVER,)):
        table = plain(routes("all", route("ours")))
        listener = plain(socket_listener("in", codec_type="HTTP2", route_config=table))
        socket = _socket("UpstreamTlsContext", common_tls_context=_common(identity, *sans, own=own), sni=NAME)
        cluster = fixed_cluster("ours", site.at) | {"transport_socket": socket}
        envoy = Envoy(programs, {"static_resources": {"listeners": [listener], "clusters": [cluster]}})
        return f"static:///{envoy.listener('in')}"

    return start


def _call(programs, target, **options):
    """In plaintext to Envoy."""
    return calls.call(programs, calls.c_core(), target, METHOD, data=WHO_AM_I, **options)


def test_our_server_serves_envoy_and_knows_who_it_is(programs, site, gateway):
    site.serve("mesh", security=MTLS)
    target = gateway()
    assert _call(programs, target, count=50, concurrency=5).codes == {"OK": 50}
    assert username(_call(programs, target).reply) == ENVOY


@pytest.mark.parametrize("less", [{"own": False}, {"sans": [OTHER]}], ids=["no-cert", "name"])
def test_neither_side_takes_less_than_it_asks_for_behind_envoy(less, programs, site, gateway):
    site.serve("mesh", security=MTLS)
    assert _call(programs, gateway(**less), count=5, deadline="5s").codes == {"UNAVAILABLE": 5}


def test_a_rule_is_about_envoy_where_envoy_calls(programs, site, gateway):
    """What Envoy says of its own caller in headers changes nothing."""
    named = {"authenticated": {"principal_name": {"exact": CLIENT}}}
    site.serve("mesh", rbac("ALLOW", {"client": any_policy(principals=[named])}), security=MTLS)
    claim = {_CALLER: f"URI={CLIENT}"}
    target = gateway()
    assert _call(programs, target, headers=claim).code == "PERMISSION_DENIED"
    both = any_policy(principals=[named, {"authenticated": {"principal_name": {"exact": ENVOY}}}])
    site.listen(rbac("ALLOW", {"both": both}), security=MTLS)
    until(lambda: _call(programs, target, headers=claim).code == "OK", 20, "the new rule")
