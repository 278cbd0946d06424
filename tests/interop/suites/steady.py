"""For long and often: endpoints that are killed under load, and shares of very many calls."""

import math
import random
import threading
import time

import pytest

from support import calls, servers
from support.xds import cluster, endpoints, listener, route, routes

TARGET = "xds:///greeter"
SEED = 20_260_601
KILL_SECONDS = 60


class Killer:
    """Kills one endpoint every 2 s, and starts it again at its address a second later."""

    def __init__(self, programs, backends):
        self.programs, self.backends = programs, backends
        self.random = random.Random(SEED)
        self.kills = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        print(f"seed {SEED}")
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _run(self):
        while not self.done.wait(1):
            at = self.random.randrange(len(self.backends))
            self.backends[at].kill()
            self.kills += 1
            self.done.wait(1)
            self.backends[at] = servers.go_echo(self.programs, port=self.backends[at].address.rsplit(":", 1)[1])


@pytest.fixture
def killed(programs, serve):
    """What calls came to while endpoints were killed, and how many were; with this retry policy."""

    def run(policy):
        backends = [servers.go_echo(programs) for _ in range(10)]
        table = routes("greeter", route("greeter"))
        table["virtual_hosts"][0]["routes"][0]["route"] |= policy
        members = endpoints("greeter", *(backend.address for backend in backends))
        config = serve(listener("greeter"), table, cluster("greeter"), members)
        # About 20 calls are under way at any time, each with nothing of its response for 100 ms.
        options = {"rate": 200, "count": 200 * KILL_SECONDS, "each": True, "headers": {"echo-hold": "100ms"}}
        with Killer(programs, backends) as killer:
            done = calls.call(programs, calls.mesh(), TARGET, bootstrap=config, within=KILL_SECONDS + 30, **options)
        assert killer.kills >= KILL_SECONDS / 2 - 2
        return done, killer.kills

    return run


@pytest.mark.timeout(180)
def test_no_call_fails_that_may_be_repeated(killed):
    done, _ = killed({"retry_policy": {"retry_on": "unavailable", "num_retries": 3}})
    assert done.codes == {"OK": 200 * KILL_SECONDS}


@pytest.mark.timeout(180)
def test_without_retries_no_more_fail_than_were_under_way(killed):
    done, kills = killed({})
    print(f"{done.failed} of {done.calls} failed at {kills} kills")
    # Two or so are at the endpoint that is killed: twice as many, and all of them at kills.
    assert 0 < done.failed < 6 * kills
    assert set(done.codes) == {"OK", "UNAVAILABLE"}


@pytest.mark.timeout(600)
def test_canary_takes_its_share_of_a_million_calls(programs, serve):
    number, share = 1_000_000, 0.01
    stable, canary = (servers.go_echo(programs).address for _ in range(2))
    table = routes("greeter", route({"stable": 99, "canary": 1}))
    sets = [cluster("stable"), endpoints("stable", stable), cluster("canary"), endpoints("canary", canary)]
    config = serve(listener("greeter"), table, *sets)
    done = calls.call(programs, calls.mesh(), TARGET, bootstrap=config, count=number, concurrency=32, within=600)
    assert done.codes == {"OK": number}
    assert done.endpoints[canary] == pytest.approx(number * share, abs=four_sigma(number, share))


def four_sigma(number, share):
    return 4 * math.sqrt(number * share * (1 - share))
