"""One authorization service (ext_authz) that Envoy and our server ask, with answers at random. INTEROP_SEED repeats a run."""

import json
import random
from collections import Counter
from urllib.parse import unquote

import grpc
import pytest

from support import seeds, servers
from support.ads import AdsServer
from support.authz import CASE, Authorization
from support.envoy import Envoy, fixed_cluster, plain
from support.http2 import Connection
from support.places import ours
from support.secured import server_listener
from support.site import METHOD
from support.wait import until
from support.xds import GOOGLE, address, bootstrap, manager, route, routes

CALLS = 600
_FILTER = GOOGLE + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
# Our interop server answers with the values of this that reached it.
_ECHOED = "x-grpc-test-echo-initial"
_SENT = ("x-kept", "x-dropped", _ECHOED)
_TOLD = (*_SENT, "x-told", "x-hidden", CASE)

# What the filter is told beside the service.
SETTINGS = {
    "as it is": {},
    "another status": {"status_on_error": {"code": "ServiceUnavailable"}},
    "failures pass": {"failure_mode_allow": True, "failure_mode_allow_header_add": True},
    "some headers": {
        "allowed_headers": {"patterns": [{"exact": CASE}, {"prefix": "x-"}]},
        "disallowed_headers": {"patterns": [{"exact": "x-hidden"}]},
    },
}


class Answers:
    """Makes answers: most of them allow."""

    # Envoy adds by the last of a denial, which has no headers yet, too; ours does what it says.
    OF_DENIALS = ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD")
    ACTIONS = (*OF_DENIALS, "OVERWRITE_IF_EXISTS")

    def __init__(self, chance):
        self.chance = chance
        self.kinds = Counter()

    def answer(self, echoed):
        """That to a call which has so many of the header `_ECHOED`."""
        kinds = {"bare": 2, "ok": 8, "denied": 5, "denied bare": 1, "ok with a denial": 1, "denied with an ok": 1, "fails": 2}
        kind = self.chance.choices(list(kinds), kinds.values())[0]
        self.kinds[kind] += 1
        code = {"code": self.chance.choice([3, 7, 16])} if kind.startswith("denied") else {}
        if kind == "fails":
            return self.chance.choice([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED])
        ok = lambda: self._ok(echoed)
        more = {"ok": ok, "denied with an ok": ok, "denied": self._denied, "ok with a denial": self._denied}
        return {"status": code, **(more[kind]() if kind in more else {})}

    def _ok(self, echoed):
        # Envoy replaces headers of requests whatever `append_action` says, as `append` alone counts there; and appends only
        # to what is there, behind the first.
        appends = echoed == 1 and self.chance.random() < 0.3
        header = {"key": _ECHOED, "value": self.chance.choice(["one", "two words", "3"])}
        changes = {
            "headers": self.chance.choice([[], [{"header": header, "append": appends}]]),
            "headers_to_remove": self.chance.choice([[], ["x-dropped"], [_ECHOED], ["x-none"]]),
            "response_headers_to_add": self._changes("x-decided", "x-why"),
        }
        return {"ok_response": changes}

    def _denied(self):
        status = self.chance.choice([None, 400, 401, 403, 404, 429, 500, 502, 503, 504, 302, 418])
        changes = self._changes("x-decided", "x-why", actions=self.OF_DENIALS)
        denied = {"headers": changes, "body": self.chance.choice(["", "no", "not today: 100%"])}
        return {"denied_response": denied | ({"status": {"code": status}} if status else {})}

    def _changes(self, *names, actions=ACTIONS):
        """Of some of these headers, one of each: Envoy has an order of its own for several."""
        change = lambda name: {
            "header": {"key": name, "value": self.chance.choice(["one", "two words", "3"])},
            "append_action": self.chance.choice(actions),
        }
        return [change(name) for name in self.chance.sample(names, self.chance.randrange(len(names) + 1))]


def _call(case, chance):
    """Path, authority, headers."""
    headers = [(CASE, str(case)), ("x-kept", "k"), ("x-dropped", "d"), ("x-hidden", "h"), ("x-told", "t")]
    headers += chance.choice([[], [(_ECHOED, "theirs")], [(_ECHOED, "theirs"), (_ECHOED, "again")]])
    return METHOD, chance.choice(["a.test", "b.test:80"]), headers


def _filter(service, settings):
    # Ours tells headers so in any case, as gRPC does (A92): each value by itself.
    config = {"transport_api_version": "V3", "encode_raw_headers": True, **settings}
    return {"name": "authz", "typed_config": {"@type": _FILTER, "grpc_service": service, **config}}


@pytest.fixture(scope="module")
def backend(module_programs):
    """What is behind Envoy: the server of ours that it is compared with, which asks nobody."""
    argv = [ours("interop-server"), "--listen", "127.0.0.1:0"]
    return module_programs.serve("interop-server", argv).address


def _envoy(programs, authorization, backend, settings):
    at = servers.free_address()
    # Its own limit for a check is 200 ms.
    service = {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "10s"}
    table = plain(routes("all", route("backend")))
    http = manager(_filter(service, settings), codec_type="HTTP2", route_config=table)
    listener = {"name": "in", "address": address(at), "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}]}
    clusters = [fixed_cluster("backend", backend), fixed_cluster("authz", authorization.address)]
    Envoy(programs, {"static_resources": {"listeners": [listener], "clusters": clusters}})
    return at


class Mesh:
    """Our server, with the same filter from its control plane."""

    def __init__(self, programs, authorization, settings):
        self.at = servers.free_address()
        service = {"google_grpc": {"target_uri": authorization.address, "stat_prefix": "authz"}}
        self.control = AdsServer(server_listener(self.at, _filter(service, settings))).start()
        allowed = {authorization.address: {"channel_creds": [{"type": "insecure"}]}}
        config = bootstrap(programs.folder, self.control.address, allowed_grpc_services=allowed)
        servers.by_listener(programs, "mesh", self.at, config)
        until(lambda: self.control.nacks() or self._serves(), 30, "our server to serve")
        assert not self.control.nacks()

    def _serves(self):
        try:
            return bool(_headers(self.at, [(METHOD, "a.test", [(CASE, "0")])])[0])
        except OSError:
            return False


def _headers(at, asked):
    connection = Connection(at)
    try:
        return connection.headers(asked)
    finally:
        connection.close()


def _seen(headers):
    """What a caller is told: the status, its text, and what the service or the handler said by headers."""
    status = dict(reversed(headers)).get("grpc-status")
    message = unquote(dict(reversed(headers)).get("grpc-message", ""))
    # Several values of one header are one with commas.
    named = {name: ",".join(value for other, value in headers if other == name) for name in (_ECHOED, "x-decided", "x-why")}
    return {"status": status, "message": message, **named}


def _told(told):
    """Of what the service was told, that which does not come from Envoy alone."""
    return told | {"headers": sorted((name, value) for name, value in told["headers"] if name in _TOLD)}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_verdicts(programs, backend, capsys, settings):
    seed = seeds.chosen()
    chance = random.Random(seed)
    answers = Answers(chance)
    # The first is for the probe.
    asked = [_call(case, chance) for case in range(1, CALLS + 1)]
    made = [{"status": {}}, *(answers.answer([name for name, _ in headers].count(_ECHOED)) for *_, headers in asked)]
    authorization = Authorization(made)
    try:
        mesh = Mesh(programs, authorization, settings)
        envoy = _envoy(programs, authorization, backend, settings)
        authorization.take_told()
        theirs, told_by_envoy = [_seen(each) for each in _headers(envoy, asked)], authorization.take_told()
        ours, told_by_us = [_seen(each) for each in _headers(mesh.at, asked)], authorization.take_told()
    finally:
        authorization.stop()
        mesh.control.stop()
    counted = Counter(each["status"] for each in theirs)
    with capsys.disabled():
        print(f"\nseed {seed}: statuses {json.dumps(counted)}, answers {json.dumps(answers.kinds)}")
    different = []
    for case, (their, our) in enumerate(zip(theirs, ours, strict=True), 1):
        for what, one, other in [("verdict", their, our), ("told", _told(told_by_envoy[case]), _told(told_by_us[case]))]:
            if one != other:
                different.append({"what": what, "answer": str(made[case]), "asked": asked[case - 1], "envoy": one, "ours": other})
    for each in different[:20]:
        print(json.dumps(each))
    assert not different, f"{len(different)} of {CALLS}"
    assert counted["0"] >= 200 and counted["0"] <= CALLS - 100
