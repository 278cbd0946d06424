"""A SPIFFE Workload API with SVIDs of 6 s, and go-spiffe as mTLS peer both ways: rotation, an agent that is away, federation."""

import json
import os
import time

import pytest

from support import calls, servers, spiffe
from support.places import HERE
from support.secured import MTLS, server_listener, upstream
from support.wait import until
from support.xds import bootstrap, service

METHOD = "/helloworld.Greeter/SayHello"
GREETING = {"method": METHOD, "data": b"\x0a\x04mesh"}
OURS, SERVER, PEER, FAR = (
    "spiffe://mesh.test/ours",
    "spiffe://mesh.test/server",
    "spiffe://mesh.test/peer",
    "spiffe://other.test/far",
)
TRUSTED = ("mesh.test", "other.test")
# The authorities shift at every second issue, and an issue is every 3 s.
ISSUES = 60 if os.environ["INTEROP_LONG"] else 6


class Mesh:
    """An agent, go-spiffe's server and our own with its Listener, and our control plane for whoever calls them."""

    def __init__(self, programs, folder, tmp_path, **sockets):
        self.programs = programs
        self.folder = folder
        self.agent = spiffe.Agent(programs, **sockets)
        self.control_plane = servers.control_plane(programs, folder)
        self.bootstrap = bootstrap(tmp_path, self.control_plane.address, providers=spiffe.PROVIDERS)

    def go_server(self, name, id, agent=None):
        """A server of go-spiffe, and our target for it."""
        server = spiffe.go_server(self.programs, agent or self.agent, name, *TRUSTED)
        resources = service(name, server.address)
        resources[2]["transport_socket"] = upstream(MTLS, id)
        self.folder.put(*resources)
        return f"xds:///{name}"

    def greeter(self, name):
        """The address of our server, which serves."""
        server = spiffe.greeter(self.programs, self.bootstrap, self.agent, name)
        self.folder.put(server_listener(server.address, security=MTLS))
        until(lambda: server.errors.read_text().startswith("serving"), 20, "our server to serve")
        return server.address

    def by_us(self, name, target, **options):
        options = {"rate": 200, "bootstrap": self.bootstrap, **GREETING, **options}
        return calls.start(self.programs, spiffe.mesh(self.agent, name), target, **options)

    def by_go(self, name, address, **options):
        client = spiffe.go_client(self.agent, name, *TRUSTED)
        return calls.start(self.programs, client, address, **{"rate": 200, **GREETING, **options})

    def has_nacked(self):
        return servers.nacks(self.control_plane)


def last_code(program):
    """The status of the call that ended last, of calls that are told `each`."""
    lines = [line for line in program.text()[-4000:].split("\n")[:-1] if line.startswith("{")]
    return json.loads(lines[-1])["code"] if lines else None


@pytest.fixture
def mesh(programs, folder, tmp_path):
    return lambda **sockets: Mesh(programs, folder, tmp_path, **sockets)


def begun(program):
    """Waits for its first calls to succeed."""
    until(lambda: last_code(program) == "OK", 20, f"the first calls of {program.name}")
    return program


@pytest.mark.timeout(240)
def test_svids_and_authorities_rotate_and_no_call_fails_either_way(mesh):
    site = mesh(ours=OURS, server=SERVER, peer=PEER)
    to_go, to_us = site.go_server("peer", PEER), site.greeter("server")
    running = [site.by_us("ours", to_go, count=0, each=True), site.by_go("peer", to_us, count=0, each=True)]
    before = site.agent.issued()
    until(lambda: site.agent.issued() - before >= ISSUES, 4 * ISSUES, "that many rotations")
    for each in running:
        done = calls.end(each)
        print(f"{each.name}: {done.calls} calls over {ISSUES} rotations, the slowest in {done.max_ms} ms")
        assert done.codes == {"OK": done.calls}, done.message
        assert done.calls > 500 * ISSUES
    assert not site.has_nacked()


def test_an_agent_that_is_away_for_two_seconds_is_not_felt(mesh):
    site = mesh(ours=OURS, peer=PEER)
    running = begun(site.by_us("ours", site.go_server("peer", PEER), count=0, each=True))
    before = site.agent.issued()
    until(lambda: site.agent.issued() > before, 10, "a rotation")
    # The SVID has 6 s from now on, and the next one comes while the agent is away.
    time.sleep(1.5)
    site.agent.take_first_socket_away()
    time.sleep(2)
    site.agent.give_first_socket_back()
    time.sleep(5)
    done = calls.end(running)
    assert done.codes == {"OK": done.calls}, done.message


def _goes_without_an_agent(site, running):
    """Its certificate expires, calls fail, and succeed again within a second of the agent's return."""
    begun(running)
    site.agent.take_first_socket_away()
    away = time.monotonic()
    until(lambda: last_code(running) == "UNAVAILABLE", 8, "a certificate that expired")
    failed_after = time.monotonic() - away
    assert failed_after > 2, "the last SVID was used until its end"
    time.sleep(max(0, away + 10 - time.monotonic()))
    assert last_code(running) == "UNAVAILABLE"
    site.agent.give_first_socket_back()
    back = time.monotonic()
    until(lambda: last_code(running) == "OK", 10, "calls that succeed again")
    returned_after = time.monotonic() - back
    print(f"calls failed {failed_after:.2f} s after the agent went, and succeeded {returned_after:.2f} s after its return")
    assert returned_after < 1.1
    time.sleep(1)
    assert last_code(running) == "OK"
    return calls.end(running)


def test_our_client_whose_agent_is_away_for_longer_fails_calls_and_recovers_within_a_second(mesh):
    site = mesh(ours=OURS, peer=PEER)
    done = _goes_without_an_agent(site, site.by_us("ours", site.go_server("peer", PEER), count=0, each=True))
    assert set(done.codes) == {"OK", "UNAVAILABLE"}
    for part in ("certificate provider `default` (spiffe_workload_api)", "expired", "SPIFFE Workload API at unix:"):
        assert part in done.message, done.message


def test_our_server_whose_agent_is_away_for_longer_serves_nobody_and_recovers_within_a_second(mesh):
    site = mesh(server=SERVER, peer=PEER)
    done = _goes_without_an_agent(site, site.by_go("peer", site.greeter("server"), count=0, each=True))
    assert set(done.codes) == {"OK", "UNAVAILABLE"}


def test_workloads_of_federated_trust_domains_take_each_other(mesh):
    site = mesh(ours=OURS, server=SERVER, far=FAR)
    to_far = site.go_server("far", FAR)
    assert calls.summary(site.by_us("ours", to_far, count=200)).codes == {"OK": 200}
    to_us = site.greeter("server")
    assert calls.summary(site.by_go("far", to_us, count=200)).codes == {"OK": 200}


def test_another_authority_of_the_same_name_is_refused_both_ways(mesh, programs):
    site = mesh(ours=OURS, server=SERVER, peer=PEER)
    to_us = site.greeter("server")
    # It has the same IDs, and none of the keys.
    false = spiffe.Agent(programs, false=PEER)
    client = spiffe.go_client(false, "false", *TRUSTED)
    assert calls.call(programs, client, to_us, count=20, **GREETING).codes == {"UNAVAILABLE": 20}
    done = calls.summary(site.by_us("ours", site.go_server("false", PEER, false), count=20))
    assert done.codes == {"UNAVAILABLE": 20} and "the handshake failed" in done.message, done.message


def test_our_client_shares_the_socket_with_that_of_another_library(mesh, programs):
    site = mesh(ours=OURS, peer=PEER, far=FAR)
    running = begun(site.by_us("ours", site.go_server("peer", PEER), count=0, each=True))
    watch = [os.environ["INTEROP_PY_SPIFFE"], HERE / "peers" / "py_spiffe" / "watch.py"]
    other = programs.start("py-spiffe", watch, site.agent.env("ours"))
    until(lambda: len({line["serial"] for line in other.json_lines()}) >= 3 or not other.running(), 20, "three SVIDs")
    assert other.running(), other.tail()
    for line in other.json_lines():
        assert line["id"] == OURS and line["domains"] == ["mesh.test", "other.test"], line
    done = calls.end(running)
    assert done.codes == {"OK": done.calls}, done.message
