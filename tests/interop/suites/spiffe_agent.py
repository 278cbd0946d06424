"""A SPIFFE Workload API with SVIDs of 6 s, and go-spiffe as mTLS peer both ways: rotation, an agent that is away, federation."""

import os
import time

import pytest

from support import calls, spiffe
from support.places import HERE
from support.spiffe import GREETING, TRUSTED, Site, begun, last_code
from support.wait import until

OURS, SERVER, PEER, FAR = (
    "spiffe://mesh.test/ours",
    "spiffe://mesh.test/server",
    "spiffe://mesh.test/peer",
    "spiffe://other.test/far",
)
# The authorities shift at every second issue, and an issue is every 3 s.
ISSUES = 60 if os.environ["INTEROP_LONG"] else 6


@pytest.fixture
def mesh(programs, folder, tmp_path):
    return lambda **sockets: Site(programs, folder, tmp_path, spiffe.Agent(programs, **sockets))


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
    time.sleep(4)
    done = calls.end(running)
    assert done.codes == {"OK": done.calls}, done.message


def _moments(running, code, within):
    """How many seconds it takes until each of these has a call that ends with this status."""
    begin, took = time.monotonic(), {}

    def look():
        now = time.monotonic() - begin
        took.update({each.name: now for each in running if each.name not in took and last_code(each) == code})
        return len(took) == len(running)

    until(look, within, f"{code} for {[each.name for each in running]}")
    print(f"{code} after {took}")
    return took.values()


def test_an_agent_that_is_away_for_longer_fails_calls_and_they_succeed_within_a_second_of_its_return(mesh):
    """Our client calls go-spiffe's server, go-spiffe calls our server, and ours have no agent for 10 s."""
    site = mesh(ours=OURS, peer=PEER)
    running = [site.by_us("ours", site.go_server("peer", PEER), count=0, each=True)]
    running.append(site.by_go("peer", site.greeter("ours"), count=0, each=True))
    for each in running:
        begun(each)
    site.agent.take_first_socket_away()
    away = time.monotonic()
    assert min(_moments(running, "UNAVAILABLE", 8)) > 2, "the last SVID was used until its end"
    time.sleep(max(0, away + 10 - time.monotonic()))
    assert [last_code(each) for each in running] == ["UNAVAILABLE"] * 2
    site.agent.give_first_socket_back()
    assert max(_moments(running, "OK", 10)) < 1.1
    time.sleep(1)
    assert [last_code(each) for each in running] == ["OK"] * 2
    done = [calls.end(each) for each in running]
    assert all(set(each.codes) == {"OK", "UNAVAILABLE"} for each in done)
    for part in ("certificate provider `default` (spiffe_workload_api)", "expired", "SPIFFE Workload API at unix:"):
        assert part in done[0].message, done[0].message


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
