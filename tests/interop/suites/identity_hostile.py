"""What gRPC C-core and Envoy say of the hostile certificates that our verifier is tested by: what we take, they take.

The chains are those of `mesh-core/src/tls/tests/chains.rs`, shown by the tests' program as a server and as a caller.
"""

import json
import socket
import urllib.error
import urllib.request
from collections import Counter

import pytest

from support import calls, places, servers
from support.ads import AdsServer
from support.certificates import Authority, Issued
from support.envoy import Envoy, fixed_cluster, plain
from support.secured import MTLS, TLS, server_listener, upstream
from support.wait import until
from support.xds import GOOGLE, bootstrap, cluster, endpoints, listener, routes, socket_listener

_TLS = GOOGLE + "envoy.extensions.transport_sockets.tls.v3"
_SPIFFE = "envoy.tls.cert_validator.spiffe"
# What we take and BoringSSL, which both have, does not; nothing of it says more of who the peer is.
_KNOWN = {
    "crossed, unknown and known": "a path by another certificate of the chain is looked for",
    "rubbish behind a good one": "what no path needs is not read",
    "rubbish between": "what no path needs is not read",
    "an address that is permitted": "constraints of IP addresses are known",
}
# The same of Envoy's validator for trust domains: the keys of these leaves say nothing of what they are used for, which it
# takes for the use of an authority's; and it knows no ID without a path.
_OF_ANY_USE = ("purposes that are critical", "names that are critical", "both purposes, each twice", "both purposes and any")
_OF_ANY_USE += ("for no purpose in particular", "for servers alone", "for clients alone")
_KNOWN_OF_TRUST_DOMAINS = _KNOWN | dict.fromkeys((*_OF_ANY_USE, "the trust domain itself"))


class Peer:
    """Shows the chains, and tells what others say of each."""

    def __init__(self, programs):
        name = "hostile_certificates::shows_each_row_to_whoever_comes"
        argv = [places.tests(), name, "--exact", "--ignored", "--nocapture"]
        self.folder = programs.folder
        self.program = programs.start("tests", argv, {"HOSTILE_FOLDER": str(self.folder)})
        said = until(self._lines, 20, "the chains")[0]
        self.rows, self.control = said["rows"], said["control"]
        self.roots, self.partner = self.folder / "roots.pem", self.folder / "partner.pem"
        assert len(self.rows) >= 200
        self.seen = 1

    def at(self, row):
        return f"127.0.0.1:{self.rows[row]['port']}"

    def dial(self, address):
        """Has all chains shown to this server."""
        host, port = self.control.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as control:
            control.sendall(address.encode())

    def verdicts(self, within=60):
        """What was said of each row since last asked: the first word counts."""
        until(lambda: len(self._since()) == len(self.rows), within, "a word on each chain")
        said = self._since()
        self.seen = len(self._lines())
        return [said[row] for row in range(len(self.rows))]

    def _lines(self):
        # The test harness prints its own words in front of the first.
        lines = [line[line.find("{") :] for line in self.program.text().split("\n")[:-1] if "{" in line]
        return [json.loads(line) for line in lines]

    def _since(self):
        said = {}
        for line in self._lines()[self.seen :]:
            said.setdefault(line["row"], line)
        return said


@pytest.fixture(scope="module")
def peer(module_programs):
    return Peer(module_programs)


@pytest.fixture(scope="module")
def judge(module_programs, peer):
    """The certificate of a server or client that trusts the chains' authority."""
    authority = Authority(module_programs.folder, "judges")
    made = authority.workload("judge", "spiffe://mesh.test/ns/a/sa/judge", "judge.test")
    return Issued(made.name, made.certificate, made.key, peer.roots)


def _compare(peer, mode, said, capsys, who):
    """Nobody refuses what we take, but for what is known; what we alone refuse is counted by our reason."""
    rows = [(row["what"], row["ours"][mode], word) for row, word in zip(peer.rows, said, strict=True)]
    both = Counter(word["taken"] for _, ours, word in rows if (ours is None) == word["taken"])
    ours_alone = Counter(ours for _, ours, word in rows if ours is not None and word["taken"])
    theirs_alone = {what: word["said"] for what, ours, word in rows if ours is None and not word["taken"]}
    with capsys.disabled():
        print(f"\n{who}: {both[True]} taken and {both[False]} refused by both, {len(theirs_alone)} refused by theirs alone,")
        print(f"{sum(ours_alone.values())} by ours alone, for {json.dumps(ours_alone)}")
    assert both[True] >= 20 and both[False] >= 60
    known = _KNOWN_OF_TRUST_DOMAINS if "map" in mode else _KNOWN
    assert theirs_alone.keys() == _of(peer, mode, known), theirs_alone


def _of(peer, mode, known):
    """Those of the rows that we take."""
    return {row["what"] for row in peer.rows if row["what"] in known and row["ours"][mode] is None}


# --- C-core


def test_endpoints_by_c_core(programs, peer, judge, capsys):
    count = len(peer.rows)
    names = [f"row-{row}" for row in range(count)]
    asked = lambda row: [{"name": "x-row", "string_match": {"exact": str(row)}}]
    entry = lambda row: {"match": {"prefix": "/", "headers": asked(row)}, "route": {"cluster": names[row]}}
    table = routes("rows", *map(entry, range(count)))
    clusters = [cluster(name, transport_socket=upstream(TLS)) for name in names]
    assigned = [endpoints(name, peer.at(row)) for row, name in enumerate(names)]
    control = AdsServer(listener("rows"), table, *clusters, *assigned).start()
    try:
        config = bootstrap(programs.folder, control.address, providers=judge.providers())
        made = calls.start(
            programs, calls.c_core_secured(), "xds:///rows", bootstrap=config, headers={"x-row": "{n}"},
            count=count, concurrency=20, deadline="5s",
        )
        said = peer.verdicts()
        made.kill()
        assert not control.nacks()
    finally:
        control.stop()
    _compare(peer, "file", said, capsys, "endpoints by C-core")


def test_callers_by_c_core(programs, peer, judge, capsys):
    at = servers.free_address()
    control = AdsServer(server_listener(at, security=MTLS)).start()
    try:
        config = bootstrap(programs.folder, control.address, providers=judge.providers())
        servers.by_listener(programs, "c-core", at, config)
        peer.dial(at)
        said = peer.verdicts()
    finally:
        control.stop()
    _compare(peer, "caller", said, capsys, "callers by C-core")


# --- Envoy


def _validation(peer, mode):
    """By a file of roots, or by those of trust domains."""
    named = lambda path: {"filename": str(path)}
    if "map" not in mode:
        return {"trusted_ca": named(peer.roots)}
    domains = {"cluster.local": peer.roots, "partner.example": peer.partner}
    config = {"trust_domains": [{"name": name, "trust_bundle": named(path)} for name, path in domains.items()]}
    validator = {"@type": f"{_TLS}.SPIFFECertValidatorConfig", **config}
    return {"custom_validator_config": {"name": _SPIFFE, "typed_config": validator}}


def _socket(context, validation, **more):
    common = {"validation_context": validation, "alpn_protocols": ["h2"], **more.pop("common", {})}
    config = {"@type": f"{_TLS}.{context}", "common_tls_context": common, **more}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


@pytest.mark.parametrize("mode", ["file", "map"])
def test_endpoints_by_envoy(programs, peer, capsys, mode):
    socket = _socket("UpstreamTlsContext", _validation(peer, mode))
    count = range(len(peer.rows))
    clusters = [fixed_cluster(f"row-{row}", peer.at(row)) | {"transport_socket": socket} for row in count]
    table = routes("all", *({"match": {"prefix": f"/{row}/"}, "route": {"cluster": f"row-{row}"}} for row in count))
    inbound = plain(socket_listener("in", route_config=plain(table)))
    envoy = Envoy(programs, {"static_resources": {"listeners": [inbound], "clusters": clusters}})
    at = envoy.listener("in")
    for row in count:
        try:
            urllib.request.urlopen(f"http://{at}/{row}/", timeout=10)
        except urllib.error.HTTPError as error:
            assert error.code == 503, error
    _compare(peer, mode, peer.verdicts(), capsys, f"endpoints by Envoy, {mode}")


@pytest.mark.parametrize("mode", ["caller", "caller_map"])
def test_callers_by_envoy(programs, peer, judge, capsys, mode):
    named = lambda path: {"filename": str(path)}
    pair = {"tls_certificates": [{"certificate_chain": named(judge.certificate), "private_key": named(judge.key)}]}
    socket = _socket("DownstreamTlsContext", _validation(peer, mode), common=pair, require_client_certificate=True)
    table = plain(routes("all", {"match": {"prefix": "/"}, "direct_response": {"status": 200}}))
    inbound = plain(socket_listener("in", codec_type="HTTP2", route_config=table))
    inbound["filter_chains"][0]["transport_socket"] = socket
    envoy = Envoy(programs, {"static_resources": {"listeners": [inbound]}})
    peer.dial(envoy.listener("in"))
    _compare(peer, mode, peer.verdicts(), capsys, f"callers by Envoy, {mode}")
