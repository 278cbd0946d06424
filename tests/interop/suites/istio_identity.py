"""istiod's CA and discovery over TLS, for a token and without an agent: certificates for mTLS both ways, and their renewal."""

import os
import time

import pytest

from support import calls, servers
from support.istio import Istiod, host, mutual_tls, peer_authentication, service
from support.pod import Pod
from support.wait import until

TARGET = f"xds:///{host('greeter')}:7070"
GREETING = {"method": "/helloworld.Greeter/SayHello", "data": b"\x0a\x04mesh"}
# The shortest life that leaves time for renewals: istiod grants less, and asks for whole seconds.
SHORT = {"SECRET_TTL": "5s"}
ROTATIONS = 60 if os.environ["INTEROP_LONG"] else 7


class Mesh:
    """An istiod with a CA that asks for mTLS everywhere, and a pod with a greeter."""

    def __init__(self, programs, env=None, more=()):
        self.programs = programs
        self.istiod = Istiod(programs, peer_authentication("STRICT"), mutual_tls("greeter"), secure=True, more=more)
        self.pod = Pod(self.istiod, "greeter-1", "127.0.0.21", "greeter", env=env)
        self.server = servers.greeter_in_pod(self.pod)
        self.istiod.put(service("greeter", "greeter", v1=[self.server.address]))

    def client(self, **options):
        return Pod(self.istiod, "app-1", "127.0.0.22", "app", **options)

    def call(self, pod, **options):
        return calls.call(self.programs, calls.in_pod(pod), TARGET, **GREETING, **options)


@pytest.fixture
def mesh(programs):
    return Mesh(programs)


def test_a_token_is_enough_for_mutual_tls(mesh):
    done = mesh.call(mesh.client(), count=200, concurrency=4)
    assert done.codes == {"OK": 200}
    assert mesh.istiod.certificates() == 2
    assert mesh.istiod.count("pilot_total_xds_rejects") == 0


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ({"audience": "other"}, "UNAUTHENTICATED: "),
        ({"life": -10}, "UNAUTHENTICATED: the token in /var/run/secrets/tokens/istio-token: it expired 1"),
        ({"account": "system:serviceaccount:other:app"}, "PERMISSION_DENIED: authorization failed: "),
    ],
)
def test_a_bad_token_is_refused_and_the_call_says_so(mesh, token, says):
    pod = mesh.client()
    pod.put_token(**token)
    done = mesh.call(pod, deadline="5s")
    assert done.failed == 1
    assert says in done.message, done.message
    # The next token is taken without a restart.
    pod.put_token()
    assert mesh.call(pod).code == "OK"


@pytest.mark.timeout(400)
def test_certificates_and_tokens_are_renewed_and_no_call_fails(programs):
    """Istiod ends each stream within seconds, so that discovery too takes the token of the moment."""
    mesh = Mesh(programs, SHORT, ["--keepaliveMaxServerConnectionAge", "6s"])
    pod = mesh.client(env=SHORT)
    until(lambda: mesh.call(pod).code == "OK", 20, "a first call")
    before = mesh.istiod.certificates()
    running = calls.start(programs, calls.in_pod(pod), TARGET, count=0, rate=200, **GREETING)
    issued = lambda: mesh.istiod.certificates() - before
    # Of the first call, of this one, and once more: it asks for an end after 6 s, and ends what is left 10 s later.
    streams = lambda: mesh.istiod.program.text().count("new connection for node:app-1")
    # Both sides renew at about half of 5 s.
    end = time.monotonic() + 40 + 4 * ROTATIONS
    while (issued() < 2 * ROTATIONS or streams() < 3) and time.monotonic() < end:
        mesh.pod.put_token(life=8)
        pod.put_token(life=8)
        time.sleep(1)
    done = calls.end(running)
    print(f"{done.calls} calls over {issued() / 2:.0f} rotations of each side, the slowest in {done.max_ms} ms")
    assert done.codes == {"OK": done.calls}, done.message
    assert (issued() >= 2 * ROTATIONS, streams() >= 3) == (True, True)


def test_a_ca_that_is_away_and_returns_with_another_root_is_not_felt(programs):
    """The root is replaced as Istio's operators do it: first all trust both, then it signs, then all trust it alone."""
    life = {"SECRET_TTL": "12s"}
    mesh = Mesh(programs, life)
    pod = mesh.client(env=life)
    until(lambda: mesh.call(pod).code == "OK", 20, "a first call")
    running = calls.start(programs, calls.in_pod(pod), TARGET, count=0, rate=200, each=True, **GREETING)
    until(lambda: "OK" in running.text(), 20, "the first calls")
    pods, old = [mesh.pod, pod], mesh.istiod.root()
    mesh.istiod.program.kill()
    new = mesh.istiod.put_authority("second")
    for each in pods:
        each.put_roots(old + new)
    # Both still have half of their life.
    time.sleep(1)
    mesh.istiod.start()
    until(lambda: mesh.istiod.certificates() >= 3, 30, "certificates of the new root for both")
    for each in pods:
        each.put_roots(new)
    until(lambda: mesh.istiod.certificates() >= 7, 40, "that the new root alone was read by both")
    done = calls.end(running)
    assert done.codes == {"OK": done.calls}, done.message
