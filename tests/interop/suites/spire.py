"""SPIRE itself: its agent's SVIDs of 10 s for our client and server, with go-spiffe as mTLS peer both ways."""

import os
import time

import pytest

from support import calls
from support.spiffe import SecretsSite, Site, begun
from support.spire import Spire
from support.wait import until

SERVER, PEER = "spiffe://mesh.test/server", "spiffe://mesh.test/peer"
LONG = bool(os.environ["INTEROP_LONG"])


def both_ways(site):
    """Calls to go-spiffe's server, and its calls to ours."""
    to_go, to_us = site.go_server("peer", PEER), site.greeter("server")
    running = [site.by_us("ours", to_go, count=0, each=True), site.by_go("peer", to_us, count=0, each=True)]
    return [begun(each) for each in running]


def none_failed(running):
    for each in running:
        done = calls.end(each)
        print(f"{each.name}: {done.calls} calls, the slowest in {done.max_ms} ms")
        assert done.codes == {"OK": done.calls}, done.message


@pytest.mark.timeout(240)
def test_svids_rotate_and_no_call_fails_either_way(programs, folder, tmp_path):
    """With lives this short the agent renews at every look at the server; an authority of a minute signs for less."""
    spire = Spire(programs, ca_life="1m")
    site = Site(programs, folder, tmp_path, spire)
    running = both_ways(site)
    shifts = 2 if LONG else 0
    begin = time.monotonic()
    done = lambda: min(map(spire.renewals, ("ours", "server"))) >= 10 and spire.authorities() >= shifts + 1
    until(done, 180, "renewals and new authorities")
    print(f"{spire.renewals('ours')} renewals, {spire.authorities()} authorities in {time.monotonic() - begin:.0f} s")
    time.sleep(3)
    none_failed(running)
    assert not site.has_nacked()


@pytest.mark.parametrize("sds", ["", "disable_spiffe_cert_validation = true"], ids=["by trust domain", "roots alone"])
def test_its_secrets_rotate_and_no_call_fails_either_way(programs, folder, tmp_path, sds):
    """As Envoy takes certificates and roots from an agent (SDS)."""
    spire = Spire(programs, sds=sds)
    site = SecretsSite(programs, folder, tmp_path, spire)
    running = both_ways(site)
    until(lambda: min(map(spire.renewals, ("ours", "server"))) >= 3, 60, "renewals")
    none_failed(running)
    assert not site.has_nacked()


def test_an_agent_that_restarts_is_not_felt(programs, folder, tmp_path):
    spire = Spire(programs)
    running = both_ways(Site(programs, folder, tmp_path, spire))
    spire.agent.kill()
    spire.socket.unlink(missing_ok=True)
    time.sleep(1)
    spire.start_agent()
    until(lambda: spire.renewals("ours") >= 3, 20, "renewals after the restart")
    none_failed(running)
