"""One change to the good listener of a server: ours and gRPC C-core's come to the same, or it is said why not."""

import copy
from dataclasses import dataclass
from typing import Callable

import grpc
import grpc.experimental
import pytest

from support import servers
from support.ads import AdsServer
from support.certificates import Authority
from support.secured import MTLS, any_policy, downstream, rbac, server_listener
from support.wait import until
from support.xds import GOOGLE, LISTENER, address, bootstrap, fault, listener

METHOD = "/grpc.testing.TestService/EmptyCall"
OK, DENIED, UNAVAILABLE = "OK", "PERMISSION_DENIED", "UNAVAILABLE"
# The control plane is told that the listener was refused; or it is taken, and connections get no byte.
NACK, CLOSED = "NACK", "closed"
KINDS = ("mesh", "c-core")


@dataclass(frozen=True)
class Row:
    """A change, and what becomes of a call to C-core's server; to ours and why, where that is meant to differ."""

    what: str
    change: Callable
    c_core: str
    mesh: str = ""
    why: str = ""


class Listener:
    """A good listener, with names for what is changed in it. It denies calls that ask for its number: see `Server.put`."""

    def __init__(self, at, number):
        self.at = at
        asks = {"header": {"name": "x-number", "string_match": {"exact": str(number)}}}
        self.whole = server_listener(at, rbac("DENY", {"asked": any_policy(permissions=[asks])}, "number"))
        self.chain = self.whole["filter_chains"][0]
        self.manager = self.chain["filters"][0]["typed_config"]
        self.host = self.manager["route_config"]["virtual_hosts"][0]

    def match(self, **match):
        self.chain["filter_chain_match"] = match

    def filter(self, entry):
        """A filter before the router."""
        self.manager["http_filters"].insert(-1, entry)

    def rbac(self, action, **policy):
        self.filter(rbac(action, {"all": any_policy(**policy)}))

    def deny(self, **policy):
        self.rbac("DENY", **policy)

    def allow(self, **policy):
        self.rbac("ALLOW", **policy)

    def header(self, name, **matcher):
        """Denies what this matches."""
        self.deny(permissions=[{"header": {"name": name, **matcher}}])

    def tls(self, change, asks=MTLS):
        """A TLS context with a change."""
        self.chain["transport_socket"] = downstream(asks)
        change(self.chain["transport_socket"]["typed_config"])

    def chains(self, *prefixes):
        """A chain for each prefix of destinations."""
        matching = lambda prefix: {"prefix_ranges": [{"address_prefix": prefix, "prefix_len": 8}]}
        chains = [{**copy.deepcopy(self.chain), "filter_chain_match": matching(prefix)} for prefix in prefixes]
        self.whole["filter_chains"] = chains

    def replace(self, resource):
        self.whole = resource


def _validation(context):
    return context["common_tls_context"]["validation_context"]


LISTENERS = [
    Row("baseline", lambda s: None, OK),
    Row("another address", lambda s: s.whole.update(address=address("127.0.0.1:1")), CLOSED),
    Row(
        "listener filters",
        lambda s: s.whole.update(listener_filters=[{"name": "x"}]),
        OK,
        NACK,
        "A36 says that they are refused, and grpc-go refuses them",
    ),
    Row("use_original_dst", lambda s: s.whole.update(use_original_dst=True), NACK),
    Row("no chain", lambda s: s.whole.update(filter_chains=[]), NACK),
    Row("default chain alone", lambda s: s.whole.update(filter_chains=[], default_filter_chain=s.chain), OK),
    Row("two chains for the same", lambda s: s.chains("127.0.0.0", "127.1.2.3"), NACK),
    Row("server_names", lambda s: s.match(server_names=["a"]), CLOSED),
    Row("transport_protocol tls", lambda s: s.match(transport_protocol="tls"), CLOSED),
    Row("source_type EXTERNAL", lambda s: s.match(source_type="EXTERNAL"), CLOSED),
    Row("transport_protocol raw_buffer", lambda s: s.match(transport_protocol="raw_buffer"), OK),
    Row("source_type SAME_IP_OR_LOOPBACK", lambda s: s.match(source_type="SAME_IP_OR_LOOPBACK"), OK),
    Row("two network filters", lambda s: s.chain.update(filters=s.chain["filters"] * 2), NACK),
    Row("no network filter", lambda s: s.chain.update(filters=[]), NACK),
    Row(
        "route that forwards",
        lambda s: s.host.update(routes=[{"match": {"prefix": "/"}, "route": {"cluster": "elsewhere"}}]),
        UNAVAILABLE,
    ),
    Row("no route", lambda s: s.host.update(routes=[]), UNAVAILABLE),
    Row(
        "fault filter",
        lambda s: s.filter({"name": "fault", "typed_config": fault()}),
        NACK,
        OK,
        "servers of ours have filters that Envoy has and gRPC does not",
    ),
    Row("API listener", lambda s: s.replace(listener(s.whole["name"])), CLOSED),
    Row("xff_num_trusted_hops", lambda s: s.manager.update(xff_num_trusted_hops=1), NACK),
]

TLS = [
    Row("unknown provider", lambda s: s.tls(lambda c: _rename(c["common_tls_context"])), NACK),
    Row("no provider", lambda s: s.tls(lambda c: c["common_tls_context"].pop(_IDENTITY)), NACK),
    Row("require_sni", lambda s: s.tls(lambda c: c.update(require_sni=True)), NACK),
    Row("certificate required without roots", lambda s: s.tls(lambda c: c["common_tls_context"].pop(_ROOTS)), NACK),
    Row("OCSP staple required", lambda s: s.tls(lambda c: c.update(ocsp_staple_policy="MUST_STAPLE")), NACK),
    Row(
        "tls_params",
        lambda s: s.tls(
            lambda c: c["common_tls_context"].update(tls_params={"tls_minimum_protocol_version": "TLSv1_3"})
        ),
        NACK,
    ),
    Row(
        "names of callers",
        lambda s: s.tls(lambda c: _validation(c).update(match_subject_alt_names=[{"exact": "x"}])),
        NACK,
        CLOSED,
        "A29 leaves it open; ours looks at the names, and closes connections in plaintext as any of TLS",
    ),
    Row(
        "hash of the certificate",
        lambda s: s.tls(lambda c: _validation(c).update(verify_certificate_hash=["00"])),
        NACK,
    ),
    Row(
        "system roots",
        lambda s: s.tls(lambda c: c["common_tls_context"].update({_ROOTS: {"system_root_certs": {}}})),
        NACK,
    ),
    Row("plaintext to TLS", lambda s: s.tls(lambda c: None), CLOSED),
]
_IDENTITY, _ROOTS = "tls_certificate_provider_instance", "validation_context"


def _rename(common):
    common[_IDENTITY] = {"instance_name": "unknown"}


_LOOPBACK = {"address_prefix": "127.0.0.0", "prefix_len": 8}
_ELSEWHERE = {"address_prefix": "10.0.0.0", "prefix_len": 8}
_METADATA = {"filter": "x", "path": [{"key": "y"}], "value": {"present_match": True}}

_EMPTY = "a list that must not be empty by Envoy's rules; what matches nothing, or everything, by mistake is dangerous"

RBAC = [
    Row("no rules", lambda s: s.filter(rbac(None, {})), OK),
    Row("allow any", lambda s: s.allow(), OK),
    Row("deny any", lambda s: s.deny(), DENIED),
    Row("allow without policies", lambda s: s.filter(rbac("ALLOW", {})), DENIED),
    Row("deny without policies", lambda s: s.filter(rbac("DENY", {})), OK),
    Row("log any", lambda s: s.rbac("LOG"), OK),
    Row("host is :authority", lambda s: s.header("host", present_match=True), DENIED),
    Row(":authority", lambda s: s.header(":authority", string_match={"exact": "server.test"}), DENIED),
    Row(":path", lambda s: s.header(":path", string_match={"exact": METHOD}), DENIED),
    Row(":method", lambda s: s.header(":method", string_match={"exact": "POST"}), DENIED),
    Row("content-type", lambda s: s.header("content-type", string_match={"exact": "application/grpc"}), DENIED),
    Row("two values of a header", lambda s: s.header("x-two", string_match={"exact": "1,2"}), DENIED),
    Row("grpc-timeout", lambda s: s.header("grpc-timeout", present_match=True), NACK),
    Row(":scheme", lambda s: s.header(":scheme", present_match=True), NACK),
    Row("url_path", lambda s: s.deny(permissions=[{"url_path": {"path": {"exact": METHOD}}}]), DENIED),
    Row("destination_ip", lambda s: s.deny(permissions=[{"destination_ip": _LOOPBACK}]), DENIED),
    Row("destination_ip elsewhere", lambda s: s.deny(permissions=[{"destination_ip": _ELSEWHERE}]), OK),
    Row("destination_port", lambda s: s.deny(permissions=[{"destination_port": _port(s.at)}]), DENIED),
    Row("destination_port elsewhere", lambda s: s.deny(permissions=[{"destination_port": 1}]), OK),
    Row("metadata", lambda s: s.deny(permissions=[{"metadata": _METADATA}]), OK),
    Row("not metadata", lambda s: s.deny(permissions=[{"not_rule": {"metadata": _METADATA}}]), DENIED),
    Row("requested_server_name", lambda s: s.deny(permissions=[{"requested_server_name": {"exact": "a"}}]), OK),
    Row("requested_server_name empty", lambda s: s.deny(permissions=[_ASKED_FOR_NOTHING]), DENIED),
    Row("authenticated in plaintext", lambda s: s.deny(principals=[{"authenticated": {}}]), OK),
    Row("not authenticated", lambda s: s.deny(principals=[{"not_id": {"authenticated": {}}}]), DENIED),
    Row("direct_remote_ip", lambda s: s.deny(principals=[{"direct_remote_ip": _LOOPBACK}]), DENIED),
    Row("remote_ip", lambda s: s.deny(principals=[{"remote_ip": _LOOPBACK}]), DENIED),
    Row("source_ip", lambda s: s.deny(principals=[{"source_ip": _LOOPBACK}]), DENIED),
    Row("source_ip elsewhere", lambda s: s.deny(principals=[{"source_ip": _ELSEWHERE}]), OK),
    Row("no permissions", lambda s: s.deny(permissions=[]), OK, NACK, _EMPTY),
    Row("no principals", lambda s: s.deny(principals=[]), OK, NACK, _EMPTY),
    Row("empty permission", lambda s: s.deny(permissions=[{}]), NACK),
    Row("and_rules of nothing", lambda s: s.deny(permissions=[{"and_rules": {"rules": []}}]), DENIED, NACK, _EMPTY),
    Row("condition", lambda s: s.deny(condition={"const_expr": {"bool_value": True}}), NACK),
    Row(
        "two filters, the second denies",
        lambda s: (s.allow(), s.filter(rbac("DENY", {"a": any_policy()}, "two"))),
        DENIED,
    ),
    Row("routes override", lambda s: (s.deny(), _override(s, None)), OK),
    Row("shadow rules", lambda s: s.filter(_shadow()), OK),
]
_ASKED_FOR_NOTHING = {"requested_server_name": {"safe_regex": {"regex": ""}}}


def _port(at):
    return int(at.rsplit(":", 1)[1])


def _override(listener, action):
    config = {"@type": GOOGLE + "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"}
    if action:
        config["rbac"] = {"rules": {"action": action}}
    listener.host["typed_per_filter_config"] = {"rbac": config}


def _shadow():
    entry = rbac(None, {})
    entry["typed_config"]["shadow_rules"] = {"action": "DENY", "policies": {"all": any_policy()}}
    return entry


ROWS = LISTENERS + TLS + RBAC


class Server:
    """A server of one kind and its control plane, which all rows share."""

    def __init__(self, kind, programs, identity):
        self.kind = kind
        self.at = servers.free_address()
        self.number = 0
        self.control = AdsServer(Listener(self.at, 0).whole).start()
        config = bootstrap(programs.folder, self.control.address, providers=identity.providers(), name=kind)
        servers.by_listener(programs, kind, self.at, config)
        until(lambda: self.call()[0] == OK, 30, f"a call that {kind} serves")

    def outcome(self, change):
        """What becomes of the listener with this change, or else of a call; the good one is in force afterwards."""
        try:
            refused = self.put(change)
            return (NACK, refused) if refused else self.call()
        finally:
            assert not self.put(lambda _: None)
            until(lambda: self.call()[0] == OK, 30, "a call that is served by the good listener")

    def put(self, change):
        """Has a listener with this change in force, or returns why it was refused."""
        self.number += 1
        changed = Listener(self.at, self.number)
        change(changed)
        told = len(self.control.requests)
        self.control.put(changed.whole)
        version = self.control.versions[LISTENER]
        since = lambda: [seen for seen in self.control.requests[told:] if seen.type == LISTENER]
        replies = lambda: [seen for seen in since() if seen.error or seen.version == version]
        refused = until(replies, 20, "a reply to the listener")[0].error
        if not refused:
            # It denies this, if it does not do worse.
            until(lambda: self.call(number=self.number)[0] != OK, 20, "the listener in force")
        return refused

    def call(self, number=None):
        """The status of a call on a connection of its own, and the text."""
        metadata = [("x-two", "1"), ("x-two", "2"), ("x-number", str(number))]
        options = [("grpc.default_authority", "server.test"), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.at, grpc.experimental.insecure_channel_credentials(), options) as channel:
            try:
                channel.unary_unary(METHOD)(b"", timeout=10, metadata=metadata)
                return OK, ""
            except grpc.RpcError as error:
                unconnected = "failed to connect" in error.details() or "Socket closed" in error.details()
                return CLOSED if unconnected else error.code().name, error.details()


@pytest.fixture(scope="module")
def both(module_programs):
    identity = Authority(module_programs.folder).workload("server", "spiffe://mesh.test/ns/rows/sa/server")
    started = {kind: Server(kind, module_programs, identity) for kind in KINDS}
    yield started
    for server in started.values():
        server.control.stop()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what.replace(" ", "-"))
def test_change(both, row):
    found = {kind: both[kind].outcome(row.change) for kind in KINDS}
    assert found["c-core"][0] == row.c_core, found
    assert found["mesh"][0] == (row.mesh or row.c_core), found
    # What differs has a reason.
    assert bool(row.mesh) == bool(row.why)
