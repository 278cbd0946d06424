"""Circuit breaking and drops: our client fails as many calls of a cluster as gRPC C-core's, without sending them."""

import math

import pytest

from support import calls, seeds, servers
from support.wait import until
from support.xds import cluster, endpoints, service

TARGET = "xds:///greeter"


@pytest.fixture(params=[calls.mesh, calls.c_core], ids=["mesh", "c-core"])
def client(request):
    return request.param()


def limited(max_requests, **more):
    return cluster("greeter", circuit_breakers={"thresholds": [{"max_requests": max_requests, **more}]})


@pytest.fixture
def serve_limited(programs, serve):
    """Serves two endpoints in a cluster with these breakers."""

    def start(breakers):
        backends = [servers.c_core_echo(programs).address for _ in range(2)]
        return serve(*service("greeter", *backends), breakers)

    return start


def at_once(programs, client, config, number, seconds=1.5):
    """What became of so many calls, all made before the first is answered."""
    options = {"count": number, "concurrency": number, "headers": {"echo-delay": str(seconds)}}
    return calls.call(programs, client, TARGET, bootstrap=config, deadline="30s", **options)


def test_calls_beyond_max_requests_fail(programs, serve_limited, client):
    done = at_once(programs, client, serve_limited(limited(10)), 30)
    assert done.codes == {"OK": 10, "UNAVAILABLE": 20}


def test_limit_is_1024_by_default(programs, serve_limited, client):
    done = at_once(programs, client, serve_limited(cluster("greeter")), 1100, seconds=4)
    assert done.codes == {"OK": 1024, "UNAVAILABLE": 76}


def test_limit_of_another_priority_is_none(programs, serve_limited, client):
    done = at_once(programs, client, serve_limited(limited(10, priority="HIGH")), 30)
    assert done.codes == {"OK": 30}


def test_first_limit_of_the_priority_holds(programs, serve_limited, client):
    both = [{"max_requests": 5}, {"max_requests": 20}]
    done = at_once(programs, client, serve_limited(cluster("greeter", circuit_breakers={"thresholds": both})), 30)
    assert done.codes == {"OK": 5, "UNAVAILABLE": 25}


def test_ended_calls_make_room(programs, serve_limited, client):
    done = calls.call(programs, client, TARGET, bootstrap=serve_limited(limited(1)), count=200)
    assert done.codes == {"OK": 200}


def test_refused_call_reaches_no_endpoint(programs, serve_limited, client):
    done = at_once(programs, client, serve_limited(limited(0)), 30)
    assert (done.codes, done.endpoints) == ({"UNAVAILABLE": 30}, {})


def test_changed_limit_holds_for_running_traffic(programs, folder, serve_limited, client):
    """At 100 calls a second of 0.2 s each, 20 are in flight."""
    config = serve_limited(limited(100))
    options = {"count": 600, "rate": 100, "each": True, "headers": {"echo-delay": "0.2"}}
    running = calls.start(programs, client, TARGET, bootstrap=config, **options)
    until(lambda: len(running.json_lines()) > 100, 20, "the first calls")
    folder.put(limited(5))
    until(lambda: any(line["code"] == "UNAVAILABLE" for line in running.json_lines()), 20, "the first refusal")
    folder.put(limited(100))
    done = calls.summary(running)
    assert done.codes["UNAVAILABLE"] > 0
    assert {each["code"] for each in done.each[-100:]} == {"OK"}


# Of the calls that the category before lets through.
DROPS = [("thousandths", 150, "TEN_THOUSAND"), ("lottery", 20, "HUNDRED"), ("throttle", 300_000, "MILLION")]


def test_each_category_drops_its_share(programs, serve, client):
    number, backend = 20_000, servers.c_core_echo(programs).address
    policy = {
        "drop_overloads": [
            {"category": name, "drop_percentage": {"numerator": numerator, "denominator": denominator}}
            for name, numerator, denominator in DROPS
        ]
    }
    config = serve(*service("greeter", backend), endpoints("greeter", backend) | {"policy": policy})
    options = {"count": number, "concurrency": 16, "within": 100, **seeds.option(client)}
    done = calls.call(programs, client, TARGET, bootstrap=config, **options)
    share = 1 - (1 - 0.015) * (1 - 0.2) * (1 - 0.3)
    assert set(done.codes) == {"OK", "UNAVAILABLE"}
    assert done.codes["UNAVAILABLE"] == pytest.approx(number * share, abs=4 * math.sqrt(number * share * (1 - share)))
    assert done.endpoints == {backend: done.codes["OK"]}
