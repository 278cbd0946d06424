"""Policies of access at random: our server's verdicts are gRPC C-core's and Envoy's. INTEROP_SEED repeats a run."""

import itertools
import json
import random
import threading
from collections import Counter
from dataclasses import dataclass

import pytest

from support import seeds, servers
from support.ads import AdsServer
from support.certificates import Authority
from support.envoy import Envoy, plain
from support.http2 import Connection
from support.policies import SOURCES, Policies, at_port
from support.secured import MTLS, TLS, client_context, downstream, rbac
from support.wait import until
from support.xds import GOOGLE, LISTENER, address, bootstrap, manager, rds, routes

POLICIES, CALLS_EACH = 600, 250
NAMES = [f"spiffe://mesh.test/ns/{namespace}/sa/{name}" for namespace in ("a", "b") for name in ("web", "db", "web2")]
NOBODY = "nobody"
# What C-core refuses to be asked.
OF_ENVOY_ALONE = ("destination_port_range",)

_OVERRIDE = GOOGLE + "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
_DENIED, _DIFFERENT = "7", "different"
# A header's values are joined by commas, as gRPC says (A41). By default Envoy asks of each alone.
_FLAGS = ("rbac_match_headers_individually", "match_headers_individually")
_JOINED = {
    "layers": [{"name": "joined", "static_layer": {f"envoy.reloadable_features.{flag}": False for flag in _FLAGS}}]
}


@pytest.fixture(scope="module")
def authority(module_programs):
    return Authority(module_programs.folder)


@pytest.fixture(scope="module")
def issued(authority):
    """The certificate of all servers."""
    return authority.workload("server", "spiffe://mesh.test/ns/a/sa/server", "server.test")


@pytest.fixture(scope="module")
def callers(authority):
    """Certificates with URIs, DNS names and subjects in every combination, and a caller who has none."""
    uris = [[], *([name] for name in NAMES), ["https://mesh.test/web"]]
    dns = [[], ["web.a.test"], ["db.b.test", "web.a.test"]]
    made = {NOBODY: None}
    for number, (uri, names, subject) in enumerate(itertools.product(uris, dns, [None, "web"])):
        made[f"{uri} {names} {subject}"] = authority.issue(f"caller-{number}", uris=uri, dns=names, subject=subject)
    return made


def _route(number, rules, port):
    asked = [{"name": "x-policy", "string_match": {"exact": str(number)}}]
    override = {"@type": _OVERRIDE, "rbac": {"rules": at_port(rules, port)}}
    return {"match": {"prefix": "/", "headers": asked}, "typed_per_filter_config": {"rbac": override}}


def _table(batch, at, **action):
    """A route for each policy, which stands in the place of a filter that has none."""
    port = int(at.rsplit(":", 1)[1])
    return routes("batch", *(_route(number, rules, port) | action for number, rules in enumerate(batch)))


def _chain(socket, **table):
    """Callers may show a certificate."""
    socket["typed_config"]["require_client_certificate"] = False
    filters = [{"name": "http", "typed_config": manager(rbac(None, {}), **table)}]
    return {"filters": filters, "transport_socket": socket}


class Judge:
    """A server that has the policies; Envoy answers what they allow by itself."""

    def __init__(self, kind, programs, issued, batch):
        self.kind = kind
        self.at = servers.free_address()
        self.control = None
        if kind == "envoy":
            self._envoy(programs, issued, batch)
        else:
            self._by_control_plane(programs, issued, batch)

    def _envoy(self, programs, issued, batch):
        table = plain(_table(batch, self.at, direct_response={"status": 200}))
        socket = downstream(TLS)
        socket["typed_config"]["common_tls_context"] = _files(issued)
        chain = _chain(socket, codec_type="HTTP2", route_config=table)
        listener = {"name": "in", "address": address(self.at), "filter_chains": [chain]}
        Envoy(programs, {"static_resources": {"listeners": [listener]}, "layered_runtime": _JOINED})

    def _by_control_plane(self, programs, issued, batch):
        chain = _chain(downstream(MTLS), **rds("batch"))
        name = f"server-{self.at}"
        listener = {"@type": LISTENER, "name": name, "address": address(self.at), "filter_chains": [chain]}
        self.control = AdsServer(listener, _table(batch, self.at, non_forwarding_action={})).start()
        config = bootstrap(programs.folder, self.control.address, providers=issued.providers(), name=self.kind)
        servers.by_listener(programs, self.kind, self.at, config)

    def serves(self, caller):
        try:
            Connection(self.at, caller).close()
            return True
        except OSError:
            return False

    def denies(self, asked):
        """Of the calls of each connection, which are denied."""
        return [[status == _DENIED for status in self._statuses(each)] for each in asked]

    def _statuses(self, asked):
        connection = Connection(self.at, asked.context, asked.source)
        try:
            return connection.statuses([call for _, call in asked.calls])
        finally:
            connection.close()

    def stop(self):
        if self.control:
            assert not self.control.nacks()
            self.control.stop()


def _files(issued):
    name = lambda path: {"filename": str(path)}
    return {
        "tls_certificates": [{"certificate_chain": name(issued.certificate), "private_key": name(issued.key)}],
        "validation_context": {"trusted_ca": name(issued.roots)},
        "alpn_protocols": ["h2"],
    }


@dataclass(frozen=True)
class Asked:
    """A connection, and calls each with the number of the policy that it is about."""

    name: str
    context: object
    source: str
    calls: list


def _asked(callers, roots, policies, chance):
    """Connections of each caller from two addresses."""
    for name, caller in callers.items():
        context = client_context(roots, caller)
        for source in chance.sample(SOURCES, 2):
            numbers = [chance.randrange(POLICIES) for _ in range(CALLS_EACH)]
            yield Asked(name, context, source, [(number, policies.call(number)) for number in numbers])


def _verdicts(judges, asked):
    """What each says, all asked at once."""
    found = {}
    ask = lambda judge: found.update({judge.kind: judge.denies(asked)})
    threads = [threading.Thread(target=ask, args=[judge]) for judge in judges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _is_stricter(caller, call, rules):
    """What allows callers by their names never allows one who has shown none with ours, however it is negated. Of a header's
    values one is enough for ours to refuse a call."""
    text = json.dumps(rules)
    if caller == NOBODY and rules["action"] == "ALLOW" and '"authenticated"' in text:
        return True
    repeated = [name for name, times in Counter(name for name, _ in call[2]).items() if times > 1]
    return any(f'"{name}"' in text for name in repeated)


def _compare(verdicts, asked, batch):
    """How often what was said; what differs is printed, up to some."""
    counted = Counter()
    for at, each in enumerate(asked):
        for place, (number, call) in enumerate(each.calls):
            denied = {kind: of_each[at][place] for kind, of_each in verdicts.items()}
            said = _agreement(denied, each.name, call, batch[number])
            counted[said] += 1
            if said == _DIFFERENT and counted[said] <= 8:
                print(
                    json.dumps(
                        {"caller": each.name, "from": each.source, "call": call, "denied": denied, **batch[number]}
                    )
                )
    return counted


def _agreement(denied, caller, call, rules):
    ours, others = denied["mesh"], {of_other for kind, of_other in denied.items() if kind != "mesh"}
    if others == {ours}:
        return "denied" if ours else "allowed"
    is_meant = others == {False} and _is_stricter(caller, call, rules)
    return "denied by ours alone, as it is meant" if is_meant else _DIFFERENT


@pytest.mark.parametrize("kinds", [("mesh", "c-core", "envoy"), ("mesh", "envoy")], ids="-".join)
def test_verdicts(kinds, module_programs, authority, issued, callers, capsys):
    seed = seeds.chosen()
    chance = random.Random(seed)
    names = [*NAMES, "https://mesh.test/web", "web.a.test", "db.b.test", "CN=web", ""]
    policies = Policies(chance, names, unknown=OF_ENVOY_ALONE if "c-core" in kinds else ())
    batch = [policies.rbac() for _ in range(POLICIES)]
    asked = list(_asked(callers, authority.roots, policies, chance))
    judges = [Judge(kind, module_programs, issued, batch) for kind in kinds]
    for judge in judges:
        until(lambda: judge.serves(asked[0].context), 30, f"{judge.kind} to serve")
    verdicts = _verdicts(judges, asked)
    for judge in judges:
        judge.stop()
    compared = _compare(verdicts, asked, batch)
    with capsys.disabled():
        print(f"\nseed {seed}: {json.dumps(compared)}; rules by field: {json.dumps(policies.fields, sort_keys=True)}")
    assert compared.total() >= 20_000 and not compared[_DIFFERENT]
