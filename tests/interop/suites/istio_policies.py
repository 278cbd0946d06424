"""istiod's inbound listeners: PeerAuthentication and AuthorizationPolicy, obeyed by a server that runs, at each call."""

import copy

import pytest

from support import calls, servers
from support.istio import Istiod, authorization_policy, destination_rule, host, mutual_tls, peer_authentication, service
from support.pod import Pod
from support.wait import until

TARGET = f"xds:///{host('greeter')}:7070"
GREET, HEALTH = "/helloworld.Greeter/SayHello", "/grpc.health.v1.Health/Check"
OK, DENIED, NONE = "OK", "PERMISSION_DENIED", "UNAVAILABLE"
LABELS = {"ISTIO_METAJSON_LABELS": '{"app": "greeter"}'}
APP = "cluster.local/ns/default/sa/app"


class Caller:
    """Calls twenty times a second, and says what became of the last ones."""

    def __init__(self, mesh, pod, method=GREET, headers=()):
        options = {"count": 0, "rate": 20, "each": True, "headers": headers, "deadline": "5s"}
        self.program = calls.start(mesh.programs, calls.in_pod(pod), TARGET, method, **options)

    def begun(self):
        return len(self.program.json_lines())

    def last(self, number=1):
        """The statuses of the last calls, or nothing if there are not so many."""
        lines = self.program.json_lines()
        return {line["code"] for line in lines[-number:]} if len(lines) >= number else set()


class Mesh:
    """A greeter in a pod with the label `app: greeter`, and istiod."""

    def __init__(self, programs, *resources, options=(), env=LABELS):
        self.programs = programs
        self.istiod = Istiod(programs, *resources, secure=True)
        self.pod = Pod(self.istiod, "greeter-1", "127.0.0.21", "greeter", env=env)
        self.server = servers.greeter_in_pod(self.pod, *options)
        self.istiod.put(service("greeter", "greeter", v1=[self.server.address]))

    def pod_of(self, account, ip, namespace="default"):
        return Pod(self.istiod, f"{account}-1", ip, account, namespace)

    def call(self, pod, **options):
        return calls.call(self.programs, calls.in_pod(pod), TARGET, GREET, deadline="5s", **options)


def settle(callers, expected, what):
    """Waits until each of the callers has what is expected of it, and sees that it stays so."""
    within = lambda number: [caller.last(number) for caller in callers] == [{code} for code in expected]
    until(lambda: within(1), 10, f"{what}: {expected}")
    seen = [caller.begun() for caller in callers]
    until(lambda: all(caller.begun() >= was + 6 for caller, was in zip(callers, seen)), 10, f"{what}: more calls")
    assert within(5), (what, [caller.last(5) for caller in callers])


def test_peer_authentication_is_obeyed_live(programs):
    """In gRPC mode istiod sends no mixed chain: PERMISSIVE means plaintext, and clients are told by a DestinationRule."""
    mesh = Mesh(programs)
    caller = Caller(mesh, mesh.pod_of("app", "127.0.0.22"))
    plain = destination_rule("greeter", tls={"mode": "DISABLE"})
    settle([caller], [OK], "neither policy nor rule")
    mesh.istiod.put(peer_authentication("STRICT"))
    settle([caller], [NONE], "plaintext to a server that is STRICT")
    mesh.istiod.put(mutual_tls("greeter"))
    settle([caller], [OK], "mTLS to a server that is STRICT")
    mesh.istiod.put(peer_authentication("DISABLE"))
    settle([caller], [NONE], "mTLS to a server in plaintext")
    mesh.istiod.put(plain)
    settle([caller], [OK], "plaintext to a server in plaintext")
    mesh.istiod.put(peer_authentication("PERMISSIVE"))
    settle([caller], [OK], "plaintext to a server that is PERMISSIVE")
    assert mesh.server.running()


def test_a_permissive_server_that_is_labelled_for_mutual_tls_wants_it(programs):
    labels = {"ISTIO_METAJSON_LABELS": '{"app": "greeter", "security.istio.io/tlsMode": "istio"}'}
    mesh = Mesh(programs, peer_authentication("PERMISSIVE"), env=labels)
    app = mesh.pod_of("app", "127.0.0.22")
    until(lambda: mesh.call(app).code == NONE, 20, "plaintext to be refused")
    mesh.istiod.put(mutual_tls("greeter"))
    until(lambda: mesh.call(app).code == OK, 20, "mTLS to be taken")


def test_callers_move_to_mutual_tls_one_by_one_at_a_server_that_takes_both_by_code(programs):
    mesh = Mesh(programs, peer_authentication("PERMISSIVE"), options=["--permissive"])
    caller = Caller(mesh, mesh.pod_of("app", "127.0.0.22"))
    settle([caller], [OK], "plaintext")
    mesh.istiod.put(authorization_policy("policy", "ALLOW", _from(principals=[APP])))
    settle([caller], [DENIED], "plaintext, which proves nobody")
    mesh.istiod.put(mutual_tls("greeter"))
    settle([caller], [OK], "mTLS")
    mesh.istiod.put(peer_authentication("STRICT"))
    settle([caller], [OK], "mTLS to a server that is STRICT")


def test_a_client_refuses_a_server_of_another_account_than_the_endpoint_is_of(programs):
    mesh = Mesh(programs, peer_authentication("STRICT"), mutual_tls("greeter"))
    app = mesh.pod_of("app", "127.0.0.22")
    assert mesh.call(app).code == OK
    mesh.istiod.put(service("greeter", "other", v1=[mesh.server.address]))
    until(lambda: (done := mesh.call(app)).code == NONE and "sa/greeter" in done.message, 20, "a refusal by name")


def _from(**source):
    return {"from": [{"source": source}]}


def _to(**operation):
    return {"to": [{"operation": operation}]}


def _when(key, *values):
    return {"when": [{"key": key, "values": list(values)}]}


# An action, rules, and what then becomes of a call of `app`, one of `stranger` in another namespace, `app`'s call of another
# method, and `app`'s call with the header `x-token: good`.
ALL, NOBODY = [OK] * 4, [DENIED] * 4
POLICIES = {
    "ALLOW a principal": ("ALLOW", [_from(principals=[APP])], [OK, DENIED, OK, OK]),
    "ALLOW a principal by suffix": ("ALLOW", [_from(principals=["*/sa/stranger"])], [DENIED, OK, DENIED, DENIED]),
    "ALLOW all that are no principal": ("ALLOW", [_from(notPrincipals=[APP])], [DENIED, OK, DENIED, DENIED]),
    "ALLOW whoever proved who it is": ("ALLOW", [_from(principals=["*"])], ALL),
    "ALLOW a namespace": ("ALLOW", [_from(namespaces=["other"])], [DENIED, OK, DENIED, DENIED]),
    "ALLOW a path": ("ALLOW", [_to(paths=[GREET])], [OK, OK, DENIED, OK]),
    "ALLOW paths by prefix": ("ALLOW", [_to(paths=["/grpc.health.v1.Health/*"])], [DENIED, DENIED, OK, DENIED]),
    "ALLOW a method": ("ALLOW", [_to(methods=["POST"])], ALL),
    "ALLOW another method": ("ALLOW", [_to(methods=["GET"])], NOBODY),
    "ALLOW a header": ("ALLOW", [_when("request.headers[x-token]", "good")], [DENIED, DENIED, DENIED, OK]),
    "ALLOW a principal at a path": ("ALLOW", [_from(principals=[APP]) | _to(paths=[GREET])], [OK, DENIED, DENIED, OK]),
    "ALLOW an address": ("ALLOW", [_from(ipBlocks=["127.0.0.0/8"])], ALL),
    "ALLOW another address": ("ALLOW", [_from(ipBlocks=["10.0.0.0/8"])], NOBODY),
    "ALLOW a host": ("ALLOW", [_to(hosts=[f"{host('greeter')}:7070"])], ALL),
    "ALLOW another host": ("ALLOW", [_to(hosts=["other.test"])], NOBODY),
    "ALLOW another port": ("ALLOW", [_to(ports=["1"])], NOBODY),
    "ALLOW all ports but one": ("ALLOW", [_to(notPorts=["1"])], ALL),
    "ALLOW an address of the server": ("ALLOW", [_when("destination.ip", "127.0.0.21")], ALL),
    "ALLOW a namespace by condition": ("ALLOW", [_when("source.namespace", "other")], [DENIED, OK, DENIED, DENIED]),
    "ALLOW a principal by condition": ("ALLOW", [_when("source.principal", APP)], [OK, DENIED, OK, OK]),
    # gRPC knows neither the SNI nor what a filter for tokens would have found, and istiod sends no such filter (A41).
    "ALLOW an SNI": ("ALLOW", [_when("connection.sni", "*")], NOBODY),
    "ALLOW whoever has a token": ("ALLOW", [_from(requestPrincipals=["*"])], NOBODY),
    "DENY whoever has no token": ("DENY", [_from(notRequestPrincipals=["*"])], NOBODY),
    "ALLOW one rule or another": ("ALLOW", [_from(namespaces=["other"]), _to(paths=[HEALTH])], [DENIED, OK, OK, DENIED]),
    "DENY a principal": ("DENY", [_from(principals=[APP])], [DENIED, OK, DENIED, DENIED]),
    "DENY a namespace": ("DENY", [_from(namespaces=["other"])], [OK, DENIED, OK, OK]),
    "DENY a path": ("DENY", [_to(paths=[HEALTH])], [OK, OK, DENIED, OK]),
    "DENY a method": ("DENY", [_to(methods=["POST"])], NOBODY),
    "DENY another method": ("DENY", [_to(methods=["GET"])], ALL),
    "DENY a header": ("DENY", [_when("request.headers[x-token]", "good")], [OK, OK, OK, DENIED]),
    "DENY everything": ("DENY", [{}], NOBODY),
}


def test_authorization_policies_are_obeyed_live(programs):
    """One server and its connections for all of them: each policy takes the place of the one before while calls run."""
    mesh = Mesh(programs, peer_authentication("STRICT"), mutual_tls("greeter"))
    app, stranger = mesh.pod_of("app", "127.0.0.22"), mesh.pod_of("stranger", "127.0.0.23", "other")
    callers = [Caller(mesh, app), Caller(mesh, stranger), Caller(mesh, app, HEALTH)]
    callers.append(Caller(mesh, app, headers={"x-token": "good"}))
    settle(callers, ALL, "no policy")
    for what, (action, rules, expected) in POLICIES.items():
        mesh.istiod.put(authorization_policy("policy", action, *copy.deepcopy(rules)))
        settle(callers, expected, what)
    # What is denied is denied whatever allows it; a policy for other workloads is none.
    only_app = authorization_policy("policy", "ALLOW", _from(principals=[APP]))
    mesh.istiod.put(only_app, authorization_policy("more", "DENY", _to(paths=[GREET])))
    settle(callers, [DENIED, DENIED, OK, DENIED], "ALLOW and DENY")
    others = {"selector": {"matchLabels": {"app": "other"}}}
    mesh.istiod.put(authorization_policy("more", "DENY", _to(paths=[GREET]), **others))
    settle(callers, [OK, DENIED, OK, OK], "a policy for others")
    mesh.istiod.remove(only_app)
    settle(callers, ALL, "no policy any more")
    assert mesh.server.running()


def test_a_policy_that_allows_nothing_fails_open_in_istiod_and_not_with_deny_by_default(programs):
    """istiod sends no filter for an ALLOW policy without rules, which in a proxy's mesh admits nobody."""
    nothing = authorization_policy("policy", "ALLOW")
    resources = [peer_authentication("STRICT"), mutual_tls("greeter"), nothing]
    mesh = Mesh(programs, *resources, options=["--deny-by-default"])
    app = mesh.pod_of("app", "127.0.0.22")
    assert mesh.call(app).code == DENIED
    mesh.istiod.put(authorization_policy("policy", "ALLOW", _from(principals=[APP])))
    until(lambda: mesh.call(app).code == OK, 20, "a policy that allows it")
    assert mesh.call(mesh.pod_of("stranger", "127.0.0.23")).code == DENIED
