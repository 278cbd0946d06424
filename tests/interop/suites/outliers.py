"""Outlier detection: endpoints leave and return when they do with gRPC C-core's client (A50), or with Envoy (the rest)."""

import pytest

from support import calls, servers
from support.envoy import proxy
from support.xds import cluster, endpoints, listener, route, routes

TARGET = "xds:///greeter"
RATE = 100
SECONDS = 15
INTERVAL, EJECTION = 1, 3
# Ejections begin and end with an interval, which two clients do not begin at the same moment.
TOLERANCE = INTERVAL + 0.5
FIXED = {"interval": f"{INTERVAL}s", "base_ejection_time": f"{EJECTION}s", "max_ejection_percent": 50}
# Envoy would otherwise hold back an ejection within a second after a return.
AT_ONCE = {"common_lb_config": {"update_merge_window": "0s"}}
OFF = {
    f"enforcing_{method}": 0
    for method in ("consecutive_5xx", "consecutive_gateway_failure", "success_rate", "failure_percentage")
}


@pytest.fixture
def backends(programs):
    """The first of them is the one that fails."""
    return [servers.c_core_echo(programs).address for _ in range(6)]


def judged(backends, **detection):
    """A cluster of these endpoints, and its assignment."""
    return cluster("greeter", outlier_detection=FIXED | OFF | detection, **AT_ONCE), endpoints("greeter", *backends)


def by_xds(serve, *parts):
    return {"target": TARGET, "bootstrap": serve(listener("greeter"), routes("greeter", route("greeter")), *parts)}


def by_envoy(programs, *parts):
    envoy = proxy(programs, routes("greeter", route("greeter")), parts)
    return {"target": f"static:///{envoy.listener('in')}"}


def traffic(programs, client, headers, target, seconds=SECONDS, **options):
    """Calls at a steady rate."""
    return calls.start(
        programs, client, target, count=RATE * seconds, rate=RATE, each=True, headers=headers, **options
    )


def failures(done):
    """When calls failed, in seconds; in runs that a second or more lies between."""
    runs = [[]]
    for at in sorted(each["t_ms"] / 1000 for each in done.each if each["code"] != "OK"):
        if runs[-1] and at - runs[-1][-1] >= 1:
            runs.append([])
        runs[-1].append(at)
    return runs


def assert_alike(ours, theirs):
    """That an endpoint which always fails was away twice, for as long on both sides: longer the second time."""
    for runs in (ours, theirs):
        assert len(runs) >= 3, (ours, theirs)
    away = [[later[0] - earlier[-1] for earlier, later in zip(runs, runs[1:])] for runs in (ours, theirs)]
    for number, (mine, its) in enumerate(zip(*away), 1):
        assert mine == pytest.approx(its, abs=TOLERANCE), away
        assert number * EJECTION - 0.1 <= mine <= number * EJECTION + TOLERANCE, away
    print(f"away for {away[0]} s, and for {away[1]} s")


RATES = {
    "success rate": {
        "enforcing_success_rate": 100,
        "success_rate_minimum_hosts": 5,
        "success_rate_request_volume": 10,
    },
    "failure percentage": {
        "enforcing_failure_percentage": 100,
        "failure_percentage_threshold": 60,
        "failure_percentage_minimum_hosts": 5,
        "failure_percentage_request_volume": 10,
    },
}


@pytest.mark.parametrize("detection", RATES)
def test_by_what_calls_of_an_interval_came_to(programs, serve, backends, detection):
    config = by_xds(serve, *judged(backends, **RATES[detection]))
    # With headers before the status, by which C-core's client knows who failed.
    failing = {"echo-only": backends[0], "echo-status": "14"}
    running = [traffic(programs, client(), failing, **config) for client in (calls.mesh, calls.c_core)]
    ours, theirs = (calls.summary(program) for program in running)
    for done in (ours, theirs):
        assert {each["endpoint"] for each in done.each if each["code"] != "OK"} == {backends[0]}
    assert_alike(failures(ours), failures(theirs))


@pytest.mark.parametrize("detection", RATES)
def test_too_few_endpoints_are_not_judged(programs, serve, backends, detection):
    config = by_xds(serve, *judged(backends[:4], **RATES[detection]))
    failing = {"echo-only": backends[0], "echo-status": "14"}
    running = [traffic(programs, client(), failing, seconds=6, **config) for client in (calls.mesh, calls.c_core)]
    for done in map(calls.summary, running):
        assert done.failed / done.calls == pytest.approx(1 / 4, abs=0.02)


CONSECUTIVE = {
    "5xx": {"consecutive_5xx": 5, "enforcing_consecutive_5xx": 100},
    "gateway failure": {"consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100},
}


@pytest.mark.parametrize("detection", CONSECUTIVE)
def test_by_failures_in_a_row(programs, serve, backends, detection):
    parts = judged(backends, **CONSECUTIVE[detection])
    failing = {"echo-only": backends[0], "echo-fail": "14", "echo-fail-times": "1000000"}
    running = [
        traffic(programs, calls.mesh(), failing, **by_xds(serve, *parts)),
        traffic(programs, calls.c_core(), failing, **by_envoy(programs, *parts)),
    ]
    ours, theirs = (failures(calls.summary(program)) for program in running)
    number = next(iter(CONSECUTIVE[detection].values()))
    # On a busy machine another call may be under way when the last of a row fails.
    for run in (*ours[:2], *theirs[:2]):
        assert number <= len(run) <= number + 2, (ours, theirs)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("side", ["mesh", "envoy"])
def test_endpoint_that_works_again_takes_its_share_again(programs, serve, backends, side):
    parts = judged(backends, **CONSECUTIVE["5xx"])
    failing = {"echo-only": backends[0], "echo-fail": "14", "echo-fail-times": "5"}
    if side == "mesh":
        # It starts slowly, for as long as it was away.
        running = traffic(programs, calls.mesh(), failing, seconds=8 + EJECTION, **by_xds(serve, *parts))
    else:
        running = traffic(programs, calls.c_core(), failing, seconds=8, **by_envoy(programs, *parts))
    done = calls.summary(running)
    assert done.failed == 5
    late = [each["endpoint"] for each in sorted(done.each, key=lambda each: each["n"])[-300:]]
    assert late.count(backends[0]) / len(late) == pytest.approx(1 / 6, abs=0.02)
