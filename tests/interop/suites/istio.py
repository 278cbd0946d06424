"""istiod: VirtualServices and DestinationRules act in our client as they are written, without an agent or a proxy."""

import math

import pytest

from support import calls, servers
from support.istio import Istiod, destination_rule, host, service, to, virtual_service
from support.wait import until

TARGET = f"xds:///{host('echo')}:7070"


class Mesh:
    """A service `echo` with two endpoints of version v1 and one of v2, as istiod knows it."""

    def __init__(self, programs, *resources):
        self.programs = programs
        self.servers = [servers.c_core_echo(programs, f"127.0.0.{host}:0") for host in (11, 12, 13)]
        self.v1, self.v2 = self.servers[:2], self.servers[2:]
        addresses = lambda some: [server.address for server in some]
        known = service("echo", v1=addresses(self.v1), v2=addresses(self.v2))
        self.istiod = Istiod(programs, known, *(resources or [destination_rule("echo", "v1", "v2")]))
        self.config = self.istiod.bootstrap()

    def call(self, client, **options):
        return calls.call(self.programs, client, TARGET, bootstrap=self.config, **options)

    def taken(self, some):
        return sum(servers.calls_taken(server) for server in some)


@pytest.fixture
def echo(programs):
    """Starts servers and istiod; the DestinationRule has the subsets v1 and v2 unless another is given."""

    def start(*routes, rule=None):
        rule = rule or destination_rule("echo", "v1", "v2")
        return Mesh(programs, rule, *([virtual_service("echo", *routes)] if routes else []))

    return start


@pytest.fixture(params=[calls.mesh, calls.c_core], ids=["mesh", "c-core"])
def both(request):
    """Our client, and C-core's where it is to do the same."""
    return request.param()


def four_sigma(number, share):
    return 4 * math.sqrt(number * share * (1 - share))


def test_service_without_rules_is_called_at_all_endpoints(echo, both):
    mesh = echo()
    done = mesh.call(both, count=300)
    assert done.codes == {"OK": 300}
    assert all(count > 50 for count in done.endpoints.values()) and len(done.endpoints) == 3


def test_subsets_by_header_and_weight(echo, both):
    canary = {"match": [{"headers": {"x-canary": {"exact": "yes"}}}], "route": to("echo", v2=100)}
    mesh = echo(canary, {"route": to("echo", v1=80, v2=20)})
    done = mesh.call(both, count=2000, concurrency=4)
    assert done.codes == {"OK": 2000}
    assert mesh.taken(mesh.v2) == pytest.approx(400, abs=four_sigma(2000, 0.2))
    marked = mesh.call(both, count=50, headers={"x-canary": "yes"})
    assert marked.endpoints == {mesh.v2[0].address: 50}


def test_edits_are_taken_while_calls_run(echo, both):
    mesh = echo({"route": to("echo", v1=100)})
    options = {"bootstrap": mesh.config, "count": 800, "rate": 100, "each": True}
    running = calls.start(mesh.programs, both, TARGET, **options)
    until(lambda: len(running.json_lines()) > 100, 20, "the first calls")
    assert mesh.taken(mesh.v2) == 0
    mesh.istiod.put(virtual_service("echo", {"route": to("echo", v2=100)}))
    done = calls.summary(running)
    assert done.codes == {"OK": 800}
    assert {each["endpoint"] for each in done.each[-100:]} == {mesh.v2[0].address}


@pytest.mark.parametrize(
    ("retries", "taken"),
    [
        ({"attempts": 3, "retryOn": "unavailable"}, 4),
        ({"attempts": 3, "retryOn": "cancelled"}, 1),
        ({"attempts": 0}, 1),
        # Istio's default is two retries on `unavailable` and others.
        (None, 3),
    ],
)
def test_retries(echo, both, retries, taken):
    mesh = echo({"route": to("echo", v1=100), **({"retries": retries} if retries else {})})
    done = mesh.call(both, headers={"echo-fail": "14", "echo-fail-times": "9"})
    assert (done.code, mesh.taken(mesh.v1)) == ("UNAVAILABLE", taken)


def test_timeout(echo, both):
    """C-core ends a call 1 to 2 s before its route's timeout.

    Its two clocks begin at different moments: the one that the call's start is read from at the process's first look at
    the time, the one that deadlines are held against a second before the whole second of that look (`InitTime` of
    src/core/util/time.cc). A timeout of 1 s is over at once; of 3 s, 1.0 to 2.0 s are left.
    """
    mesh = echo({"route": to("echo", v1=100), "timeout": "3s"})
    assert mesh.call(both, headers={"echo-delay": "0"}).code == "OK"
    done = mesh.call(both, headers={"echo-delay": "8"})
    earliest = 2_900 if both.name == "mesh" else 900
    assert (done.code, earliest < done.max_ms < 5_000) == ("DEADLINE_EXCEEDED", True), done.max_ms


def test_timeout_of_each_attempt(echo, client):
    retries = {"attempts": 2, "perTryTimeout": "0.3s", "retryOn": "5xx"}
    mesh = echo({"route": to("echo", v1=100), "retries": retries})
    # The server waits before anything of its response.
    done = mesh.call(client, headers={"echo-hold": "5"})
    assert (done.code, mesh.taken(mesh.v1)) == ("DEADLINE_EXCEEDED", 3)


def test_direct_response_answers_in_the_client(echo, client):
    direct = {"match": [{"headers": {"x-direct": {"exact": "1"}}}], "directResponse": {"status": 403}}
    mesh = echo(direct, {"route": to("echo", v1=100)})
    assert mesh.call(client, headers={"x-direct": "1"}).code == "PERMISSION_DENIED"
    assert mesh.call(client).code == "OK"
    assert mesh.taken(mesh.servers) == 1


def test_faults(echo, both):
    abort = {"percentage": {"value": 30}, "grpcStatus": "PERMISSION_DENIED"}
    delay = {"percentage": {"value": 100}, "fixedDelay": "0.5s"}
    faulty = lambda name, **fault: {
        "match": [{"headers": {"x-fault": {"exact": name}}}],
        "fault": fault,
        "route": to("echo", v1=100),
    }
    mesh = echo(faulty("abort", abort=abort), faulty("delay", delay=delay), {"route": to("echo", v1=100)})
    done = mesh.call(both, count=1000, concurrency=4, headers={"x-fault": "abort"})
    assert done.codes["PERMISSION_DENIED"] == pytest.approx(300, abs=four_sigma(1000, 0.3))
    assert mesh.taken(mesh.v1) == done.codes["OK"] == 1000 - done.codes["PERMISSION_DENIED"]
    delayed = mesh.call(both, each=True, headers={"x-fault": "delay"})
    assert (delayed.code, delayed.each[0]["ms"] >= 490) == ("OK", True)
    assert mesh.call(both).code == "OK"


def test_mirror(echo, client):
    mirror = {"mirror": {"host": host("echo"), "subset": "v2"}, "mirrorPercentage": {"value": 100}}
    share = {**mirror, "mirrorPercentage": {"value": 20}}
    marked = {"match": [{"headers": {"x-some": {"exact": "1"}}}], "route": to("echo", v1=100), **share}
    mesh = echo(marked, {"route": to("echo", v1=100), **mirror})
    assert mesh.call(client, count=50).codes == {"OK": 50}
    # A client that ends does not wait for its last copies.
    until(lambda: mesh.taken(mesh.v2) >= 45, 10, "a copy of each call, but for the last ones")
    copies = mesh.taken(mesh.v2)
    assert copies <= 50
    done = mesh.call(client, count=1000, concurrency=4, headers={"x-some": "1"})
    assert (done.codes, mesh.taken(mesh.v1)) == ({"OK": 1000}, 1050)
    near = pytest.approx(copies + 200, abs=10 + four_sigma(1000, 0.2))
    until(lambda: mesh.taken(mesh.v2) == near, 10, "copies of a fifth of the calls")


def test_headers(echo, client):
    request = {"set": {"x-set": "istio"}, "add": {"x-more": "2"}, "remove": ["x-gone"]}
    mesh = echo({"route": to("echo", v2=100), "headers": {"request": request}})
    sent = {"x-set": "application", "x-more": "1", "x-gone": "1", "x-kept": "1"}
    assert mesh.call(client, headers=sent).code == "OK"
    seen = servers.last_call(mesh.v2[0])
    assert (seen["x-set"], seen["x-kept"], "x-gone" in seen) == ("istio", "1", False)


def test_rewrite(echo, client):
    match = [{"uri": {"prefix": "/old.Echo"}}]
    mesh = echo({"match": match, "rewrite": {"uri": "/interop.Echo"}, "route": to("echo", v2=100)})
    assert mesh.call(client, method="/old.Echo/Say").code == "OK"
    assert servers.last_call(mesh.v2[0])[":method"] == "/interop.Echo/Say"


def test_consistent_hash_by_header(echo):
    by_user = {"consistentHash": {"httpHeaderName": "x-user", "minimumRingSize": 1024}}
    mesh = echo(rule=destination_rule("echo", loadBalancer=by_user))
    options = {"count": 200, "each": True, "headers": {"x-user": "user-{n}"}}
    ours, c_core = (mesh.call(client(), **options) for client in (calls.mesh, calls.c_core))
    place = lambda done: {each["n"]: each["endpoint"] for each in done.each}
    assert place(ours) == place(c_core)
    assert len(ours.endpoints) == 3


@pytest.mark.parametrize("lb", ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"])
def test_simple_balancing(echo, client, lb):
    mesh = echo(rule=destination_rule("echo", loadBalancer={"simple": lb}))
    done = mesh.call(client, count=300)
    assert done.codes == {"OK": 300}
    assert len(done.endpoints) == 3 and min(done.endpoints.values()) > 50


def test_most_requests_at_once(echo, both):
    mesh = echo(rule=destination_rule("echo", connectionPool={"http": {"http2MaxRequests": 10}}))
    done = mesh.call(both, count=30, concurrency=30, headers={"echo-delay": "1.5"})
    assert done.codes == {"OK": 10, "UNAVAILABLE": 20}
