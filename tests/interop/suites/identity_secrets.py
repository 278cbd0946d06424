"""Secrets (SDS) of our control plane's: Envoy and ours take certificates and roots from it, and renew them."""

import json
import tempfile
import time
from pathlib import Path

import pytest

from support import calls, servers
from support.certificates import Authority
from support.envoy import Envoy, http2_cluster, plain
from support.secured import (
    certificate_secret,
    downstream_by_secrets,
    roots_secret,
    server_listener,
    upstream_by_secrets,
)
from support.site import CLIENT, METHOD, SERVER, WHO_AM_I, username
from support.wait import until
from support.xds import bootstrap, endpoints, route, routes, service, socket_listener

ENVOY, OTHER = "spiffe://mesh.test/ns/site/sa/envoy", "spiffe://mesh.test/ns/site/sa/other"
DOMAIN = "mesh.test"
# Where Envoy has secrets from; ours asks for them on its stream (ADS).
_SDS = {"envoy_grpc": {"cluster_name": "sds"}}
_CALLER = "x-forwarded-client-cert"


class Site:
    """Our control plane with secrets at a Unix socket, as it has private keys."""

    def __init__(self, programs, folder, tmp_path, socket, domain):
        self.programs, self.folder, self.domain = programs, folder, domain
        self.certificates = tmp_path
        self.services = 0
        self.authority = Authority(tmp_path)
        self.socket = socket
        self.put_roots(self.authority)
        self.control_plane = servers.control_plane(programs, folder, "--unix", self.socket)
        self.bootstrap = bootstrap(tmp_path, f"unix:{self.socket}")

    def put_roots(self, *authorities):
        self.folder.put(roots_secret("roots", *authorities, domain=self.domain))

    def put(self, name, uri, *dns, authority=None):
        """A new certificate as the secret of this name."""
        issued = (authority or self.authority).workload(f"{name}-{time.monotonic_ns()}", uri, *dns)
        self.folder.put(certificate_secret(name, issued))

    def envoy(self, listener, *clusters):
        """An Envoy that asks our control plane for secrets, at the same socket."""
        there = {"endpoint": {"address": {"pipe": {"path": str(self.socket)}}}}
        assigned = {"cluster_name": "sds", "endpoints": [{"lb_endpoints": [there]}]}
        control = http2_cluster("sds", type="STATIC", load_assignment=assigned)
        resources = {"listeners": [listener], "clusters": [control, *clusters]}
        return Envoy(self.programs, {"node": {"id": "envoy", "cluster": "envoy"}, "static_resources": resources})

    def endpoint(self, *callers):
        """An Envoy that serves these callers alone, and tells what is behind it who called; and that."""
        backend = servers.c_core_echo(self.programs)
        said = {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
        table = plain(routes("all", route("backend")))
        listener = plain(socket_listener("in", codec_type="HTTP2", route_config=table, **said))
        listener["filter_chains"][0]["transport_socket"] = _h2(downstream_by_secrets(_SDS, "envoy", "roots", *callers))
        known = http2_cluster("backend", type="STATIC", load_assignment=plain(endpoints("backend", backend.address)))
        return self.envoy(listener, known), backend

    def start(self, at, *peers, **options):
        """Calls of our client, by a service of their own: what was put into the folder is served a moment later."""
        self.services += 1
        name = f"svc-{self.services}"
        resources = service(name, at)
        resources[2]["transport_socket"] = upstream_by_secrets(None, "client", "roots", *peers)
        self.folder.put(*resources)
        return calls.start(self.programs, calls.mesh(), f"xds:///{name}", bootstrap=self.bootstrap, **options)

    def server(self):
        """The address of our server, which serves."""
        at = servers.free_address()
        listener = server_listener(at)
        listener["filter_chains"][0]["transport_socket"] = downstream_by_secrets(None, "server", "roots")
        self.folder.put(listener)
        servers.by_listener(self.programs, "mesh", at, self.bootstrap)
        return at

    def gateway(self, at):
        """Where an Envoy listens in plaintext that passes calls to our server."""
        cluster = http2_cluster("ours", type="STATIC", load_assignment=plain(endpoints("ours", at)))
        cluster["transport_socket"] = _h2(upstream_by_secrets(_SDS, "envoy", "roots", SERVER))
        table = plain(routes("all", route("ours")))
        return self.envoy(plain(socket_listener("in", codec_type="HTTP2", route_config=table)), cluster)

    def has_nacked(self):
        return servers.nacks(self.control_plane)


def _h2(socket):
    socket["typed_config"]["common_tls_context"]["alpn_protocols"] = ["h2"]
    return socket


@pytest.fixture(params=[None, DOMAIN], ids=["roots", "by trust domain"])
def secrets(request, programs, folder, tmp_path):
    # The path of a socket has to be short.
    with tempfile.TemporaryDirectory() as short:
        yield Site(programs, folder, tmp_path, Path(short) / "ads", request.param)


def _serials(envoy):
    """Of the certificates that an Envoy shows."""
    known = json.loads(envoy.admin("/certs"))["certificates"]
    return {each["serial_number"] for of in known for each in of.get("cert_chain", [])}


def _rotate(site, envoy, *names):
    """Hands over to a new authority: all trust both, the new one signs, all trust it alone.

    Envoy's certificate is the first: it keeps a connection that it made with the old one until its peer drains that, so that
    the peer's has to change when Envoy has its new one.
    """
    next = Authority(site.certificates, "next")
    before = _serials(envoy)
    site.put_roots(site.authority, next)
    time.sleep(1)
    for name, uri, *dns in names:
        site.put(name, uri, *dns, authority=next)
        until(lambda: _serials(envoy) and not _serials(envoy) & before, 20, "Envoy's new certificate")
    time.sleep(1)
    site.put_roots(next)
    time.sleep(1)
    site.authority = next


def test_envoy_serves_our_client_by_secrets_and_no_call_fails_while_all_of_them_change(secrets):
    secrets.put("envoy", ENVOY)
    secrets.put("client", CLIENT)
    envoy, backend = secrets.endpoint(CLIENT)
    running = secrets.start(envoy.listener("in"), ENVOY, count=0, rate=200, deadline="5s")
    until(lambda: servers.calls_taken(backend) > 100, 20, "calls through Envoy")
    _rotate(secrets, envoy, ("envoy", ENVOY), ("client", CLIENT))
    taken = servers.calls_taken(backend)
    until(lambda: servers.calls_taken(backend) > taken + 100, 20, "calls with the new certificates")
    done = calls.end(running)
    assert done.codes == {"OK": done.calls} and done.calls > 500, done
    assert f"URI={CLIENT}" in servers.last_call(backend)[_CALLER]
    assert not secrets.has_nacked()


def test_neither_takes_another_than_its_secrets_say(secrets, tmp_path):
    secrets.put("envoy", ENVOY)
    secrets.put("client", OTHER)
    envoy, backend = secrets.endpoint(CLIENT)
    once = lambda peer: calls.summary(secrets.start(envoy.listener("in"), peer, count=3, deadline="5s"))
    assert once(ENVOY).codes == {"UNAVAILABLE": 3}, "Envoy refuses the caller"
    secrets.put("client", CLIENT)
    assert once(OTHER).codes == {"UNAVAILABLE": 3}, "ours refuses Envoy"
    assert servers.calls_taken(backend) == 0
    assert once(ENVOY).codes == {"OK": 3}
    # Whoever is not vouched for.
    stranger = Authority(tmp_path, "stranger")
    secrets.put("client", CLIENT, authority=stranger)
    assert once(ENVOY).codes == {"UNAVAILABLE": 3}
    secrets.put("client", CLIENT)
    before = _serials(envoy)
    secrets.put("envoy", ENVOY, authority=stranger)
    until(lambda: not _serials(envoy) & before, 20, "Envoy's new certificate")
    assert once(ENVOY).codes == {"UNAVAILABLE": 3}
    assert servers.calls_taken(backend) == 3


def test_our_server_serves_envoy_by_secrets_and_no_call_fails_while_all_of_them_change(programs, secrets):
    secrets.put("envoy", ENVOY)
    secrets.put("server", SERVER)
    envoy = secrets.gateway(secrets.server())
    target = f"static:///{envoy.listener('in')}"
    asked = lambda **options: calls.call(programs, calls.c_core(), target, METHOD, data=WHO_AM_I, **options)
    until(lambda: asked(deadline="5s").code == "OK", 20, "our server behind Envoy")
    assert username(asked().reply) == ENVOY
    begin = time.monotonic()
    running = calls.start(programs, calls.c_core(), target, METHOD, data=WHO_AM_I, count=1500, rate=100, deadline="5s")
    _rotate(secrets, envoy, ("envoy", ENVOY), ("server", SERVER))
    assert time.monotonic() - begin < 14, "the calls go on"
    assert calls.summary(running).codes == {"OK": 1500}
    assert username(asked().reply) == ENVOY
    assert not secrets.has_nacked()
