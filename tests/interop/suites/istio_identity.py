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
ROTATIONS = 60 if os.environ["INTEROP_LONG"] else 9


class Mesh:
    """An istiod with a CA that asks for mTLS everywhere, and a pod with a greeter."""

    def __init__(self, programs, env=None):
        self.programs = programs
        self.istiod = Istiod(programs, peer_authentication("STRICT"), mutual_tls("greeter"), secure=True)
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
    mesh = Mesh(programs, SHORT)
    pod = mesh.client(env=SHORT)
    until(lambda: mesh.call(pod).code == "OK", 20, "a first call")
    before = mesh.istiod.certificates()
    running = calls.start(programs, calls.in_pod(pod), TARGET, count=0, rate=200, **GREETING)
    # Both sides renew at about half of 5 s.
    end = time.monotonic() + 4 * ROTATIONS
    while mesh.istiod.certificates() - before < 2 * ROTATIONS and time.monotonic() < end:
        mesh.pod.put_token(life=8)
        pod.put_token(life=8)
        time.sleep(1)
    done = calls.end(running)
    rotations = (mesh.istiod.certificates() - before) / 2
    print(f"{done.calls} calls over {rotations:.0f} rotations of each side, the slowest in {done.max_ms} ms")
    assert (done.codes, rotations >= ROTATIONS) == ({"OK": done.calls}, True), done.message


def test_a_ca_that_is_away_for_less_than_a_certificate_has_left_is_not_felt(programs):
    life = {"SECRET_TTL": "12s"}
    mesh = Mesh(programs, life)
    pod = mesh.client(env=life)
    until(lambda: mesh.call(pod).code == "OK", 20, "a first call")
    running = calls.start(programs, calls.in_pod(pod), TARGET, count=0, rate=200, each=True, **GREETING)
    until(lambda: len(running.json_lines()) > 200, 20, "the first calls")
    mesh.istiod.program.kill()
    time.sleep(1)
    mesh.istiod.start()
    until(lambda: mesh.istiod.certificates() >= 2, 30, "certificates of the CA that returned")
    done = calls.end(running)
    assert done.codes == {"OK": done.calls}, done.message
