"""For long and often: endpoints that are killed under load, and shares of very many calls.

By default a part of the numbers; with `--long` a minute of kills and a million calls.
"""

import array
import math
import os
import random
import threading

import pytest

from support import calls, seeds, servers
from support.scripted import Scripted, reset
from support.xds import cluster, endpoints, fault, listener, percent, route, routes

TARGET = "xds:///greeter"
SEED = 20_260_601
LONG = bool(os.environ.get("INTEROP_LONG"))
KILL_SECONDS = 60 if LONG else 16
MILLION = 1_000_000 if LONG else 200_000
RETRIES = {"retry_policy": {"retry_on": "unavailable", "num_retries": 3}}


class Killer:
    """Ends one endpoint every 2 s, and starts it again at its address a second later.

    It is killed; with `drains` every second one is asked to end, and drains first.
    """

    def __init__(self, backends, start, drains=False):
        self.backends, self.start, self.drains = backends, start, drains
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
            self._end(self.backends[at])
            self.done.wait(1)
            self.backends[at] = self.start(port=self.backends[at].address.rsplit(":", 1)[1])

    def _end(self, backend):
        self.kills += 1
        if self.drains and self.kills % 2:
            backend.stop()
        else:
            backend.kill()


def one_cluster(*addresses, policy=None):
    """A service of one cluster; with this retry policy."""
    table = routes("greeter", route("greeter"))
    table["virtual_hosts"][0]["routes"][0]["route"] |= policy or {}
    return [listener("greeter"), table, cluster("greeter"), endpoints("greeter", *addresses)]


@pytest.fixture
def killed(programs, serve):
    """What calls came to while endpoints were killed, and how many were; with this retry policy."""

    def run(policy):
        start = lambda **at: servers.go_echo(programs, **at)
        backends = [start() for _ in range(10)]
        config = serve(*one_cluster(*(backend.address for backend in backends), policy=policy))
        # About 20 calls are under way at any time, each with nothing of its response for 100 ms.
        options = {"rate": 200, "count": 200 * KILL_SECONDS, "each": True, "headers": {"echo-hold": "100ms"}}
        with Killer(backends, start) as killer:
            done = calls.call(programs, calls.mesh(), TARGET, bootstrap=config, within=KILL_SECONDS + 30, **options)
        assert killer.kills >= KILL_SECONDS / 2 - 2
        return done, killer.kills

    return run


@pytest.mark.timeout(180)
def test_no_call_fails_that_may_be_repeated(killed):
    done, _ = killed(RETRIES)
    assert done.codes == {"OK": 200 * KILL_SECONDS}


@pytest.mark.timeout(180)
def test_without_retries_no_more_fail_than_were_under_way(killed):
    done, kills = killed({})
    print(f"{done.failed} of {done.calls} failed at {kills} kills")
    # Two or so are at the endpoint that is killed: twice as many, and all of them at kills.
    assert 0 < done.failed < 6 * kills
    assert set(done.codes) == {"OK", "UNAVAILABLE"}


class Executed:
    """How often each of so many calls was executed, by the servers' own count."""

    def __init__(self, folder, number):
        self.path, self.number = folder / "counts", number
        with self.path.open("wb") as file:
            file.truncate(4 * number)

    def times(self):
        counts = array.array("I")
        with self.path.open("rb") as file:
            counts.fromfile(file, self.number)
        return counts


@pytest.fixture
def executed(programs, serve, tmp_path):
    """What calls came to, how often each was executed, and how often an endpoint refused one.

    Of ten endpoints one is killed or drained every 2 s; an eleventh refuses every call.
    """

    def run(number, policy=None, headers=(), **options):
        counted = Executed(tmp_path, number)
        start = lambda **at: servers.go_echo(programs, counts=counted.path, **at)
        backends = [start() for _ in range(10)]
        refusing = Scripted([reset("REFUSED_STREAM")])
        addresses = [*(backend.address for backend in backends), *refusing.addresses]
        config = serve(*one_cluster(*addresses, policy=policy))
        headers = {"echo-number": "{n}", "x-row": "0", "x-side": "mesh", **dict(headers)}
        with Killer(backends, start, drains=True) as killer:
            done = calls.call(
                programs, calls.mesh(), TARGET, bootstrap=config, count=number, headers=headers, within=600, **options
            )
        refusing.stop()
        assert killer.kills >= 4
        return done, counted.times(), refusing.taken["mesh", 0]

    return run


@pytest.mark.timeout(600)
def test_without_a_retry_policy_no_call_is_executed_twice(executed):
    """What an endpoint refused, or a GOAWAY left out, is sent elsewhere all the same: nobody executed it."""
    done, times, refused = executed(MILLION, concurrency=32)
    print(f"{done.codes}, {refused} refused")
    assert set(done.codes) <= {"OK", "UNAVAILABLE"}
    assert refused > 0
    assert set(times) <= {0, 1}
    assert done.codes["OK"] <= sum(times) <= done.calls
    # Only kills fail calls, at most those at one endpoint.
    assert done.failed <= 32 * KILL_SECONDS


def test_with_a_retry_policy_the_same_faults_execute_calls_twice(executed):
    """The count can show it."""
    done, times, _ = executed(2_000, policy=RETRIES, headers={"echo-hold": "100ms"}, rate=200)
    assert done.codes == {"OK": 2_000}
    assert max(times) > 1


@pytest.mark.timeout(600)
def test_canary_takes_its_share(programs, serve):
    share = 0.01
    stable, canary = (servers.go_echo(programs).address for _ in range(2))
    table = routes("greeter", route({"stable": 99, "canary": 1}))
    sets = [cluster("stable"), endpoints("stable", stable), cluster("canary"), endpoints("canary", canary)]
    config = serve(listener("greeter"), table, *sets)
    options = {"count": MILLION, "concurrency": 32, "within": 600, **seeds.option(calls.mesh())}
    done = calls.call(programs, calls.mesh(), TARGET, bootstrap=config, **options)
    assert done.codes == {"OK": MILLION}
    assert done.endpoints[canary] == pytest.approx(MILLION * share, abs=four_sigma(MILLION, share))


def test_abort_takes_its_share(programs, serve):
    number, share = 100_000, 0.1
    abort = {"name": "fault", "typed_config": fault(abort={"grpc_status": 14, "percentage": percent(10)})}
    backend = servers.go_echo(programs)
    faulty = [listener("greeter", filters=[abort]), *one_cluster(backend.address)[1:]]
    options = {"count": number, "concurrency": 32, **seeds.option(calls.mesh())}
    done = calls.call(programs, calls.mesh(), TARGET, bootstrap=serve(*faulty), **options)
    assert set(done.codes) == {"OK", "UNAVAILABLE"}
    assert done.codes["UNAVAILABLE"] == pytest.approx(number * share, abs=four_sigma(number, share))
    assert done.endpoints == {backend.address: done.codes["OK"]}


def four_sigma(number, share):
    return 4 * math.sqrt(number * share * (1 - share))
