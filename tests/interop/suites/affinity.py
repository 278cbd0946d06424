"""Ring hash: a key goes to the same endpoint from our client as from gRPC C-core's, and stays there."""

import pytest

from support import calls, servers
from support.xds import assignment, cluster, endpoints, listener, locality, member, route, routes

TARGET = "xds:///greeter"
KEYS = 300
BY_USER = [{"header": {"header_name": "x-user"}}]


@pytest.fixture
def backends(programs):
    return [servers.c_core_echo(programs).address for _ in range(5)]


@pytest.fixture
def serve_ring(serve):
    """Serves a ring of these localities, hashed by these policies."""

    def start(assigned, hash_policy=BY_USER, **ring):
        table = routes("greeter", route("greeter"))
        table["virtual_hosts"][0]["routes"][0]["route"]["hash_policy"] = hash_policy
        hashed = cluster("greeter", lb_policy="RING_HASH", ring_hash_lb_config=ring)
        return serve(listener("greeter"), table, hashed, assigned)

    return start


@pytest.fixture
def places(programs):
    """Which endpoint each key went to, by client."""

    def of(client, config, **headers):
        headers = headers or {"x-user": "user-{n}"}
        done = calls.call(programs, client, TARGET, bootstrap=config, count=KEYS, each=True, headers=headers)
        assert done.codes == {"OK": KEYS}
        return {each["n"]: each["endpoint"] for each in done.each}

    return of


def both(places, config, **headers):
    """The places by our client, which are those by C-core's."""
    ours, c_core = (places(client(), config, **headers) for client in (calls.mesh, calls.c_core))
    assert ours == c_core
    return ours


def moved(before, after):
    return {key for key in before if before[key] != after[key]}


def test_each_key_has_its_endpoint_in_both(places, serve_ring, backends):
    config = serve_ring(endpoints("greeter", *backends))
    found = both(places, config)
    assert set(found.values()) == set(backends)
    assert both(places, config) == found


def test_weights_of_endpoints_and_localities_give_them_more_of_the_ring(places, serve_ring, backends):
    a, b, c, d, e = backends
    near = locality("near", member(a, weight=1), member(b, weight=3), weight=3)
    far = locality("far", c, d, e, weight=1)
    found = list(both(places, serve_ring(assignment("greeter", near, far))).values())
    assert found.count(b) > found.count(a) > 0
    assert found.count(a) + found.count(b) > found.count(c) + found.count(d) + found.count(e) > 0


@pytest.mark.parametrize(
    "ring", [{"minimum_ring_size": 1}, {"minimum_ring_size": 64, "maximum_ring_size": 100}, {"maximum_ring_size": 8192}]
)
def test_size_of_the_ring(places, serve_ring, backends, ring):
    both(places, serve_ring(endpoints("greeter", *backends), **ring))


def test_new_endpoint_takes_its_share_and_few_other_keys_move(places, serve_ring, backends):
    before = both(places, serve_ring(endpoints("greeter", *backends[:4])))
    after = both(places, serve_ring(endpoints("greeter", *backends)))
    taken = [key for key in moved(before, after) if after[key] == backends[4]]
    assert len(taken) / KEYS == pytest.approx(1 / 5, abs=0.1)
    # Each endpoint has fewer points on a ring of the same size, so that some keys find another.
    assert len(moved(before, after)) - len(taken) < KEYS / 4


def test_keys_of_a_removed_endpoint_move_and_few_others(places, serve_ring, backends):
    before = both(places, serve_ring(endpoints("greeter", *backends)))
    after = both(places, serve_ring(endpoints("greeter", *backends[1:])))
    left = {key for key, place in before.items() if place == backends[0]}
    assert left <= moved(before, after)
    assert len(moved(before, after) - left) < KEYS / 4


def test_keys_of_an_endpoint_that_is_down_move_and_no_other(programs, places, serve_ring, backends):
    config = serve_ring(endpoints("greeter", *backends))
    before = both(places, config)
    down = next(program for program in programs.started if getattr(program, "address", "") == backends[0])
    down.kill()
    after = both(places, config)
    assert moved(before, after) == {key for key, place in before.items() if place == backends[0]}
    servers.c_core_echo(programs, backends[0])
    assert both(places, config) == before


POLICIES = {
    "regex": [
        {"header": {"header_name": "x-user", "regex_rewrite": {"pattern": {"regex": "-[0-9]"}, "substitution": "+"}}}
    ],
    "two headers": [{"header": {"header_name": "x-tenant"}}, *BY_USER],
    "terminal": [{"header": {"header_name": "x-tenant"}, "terminal": True}, *BY_USER],
    "absent header first": [{"header": {"header_name": "x-none"}, "terminal": True}, *BY_USER],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_hash_policies(places, serve_ring, backends, policy):
    config = serve_ring(endpoints("greeter", *backends), POLICIES[policy])
    found = both(places, config, **{"x-user": "user-{n}", "x-tenant": "acme"})
    assert (len(set(found.values())) == 1) == (policy == "terminal")


def test_without_a_key_calls_go_anywhere(places, serve_ring, backends, client):
    found = places(client, serve_ring(endpoints("greeter", *backends)), **{"x-other": "1"})
    assert set(found.values()) == set(backends)


def test_channel_id_keeps_a_channel_at_one_endpoint(places, serve_ring, backends):
    policy = [{"filter_state": {"key": "io.grpc.channel_id"}}]
    config = serve_ring(endpoints("greeter", *backends), policy)
    for client in (calls.mesh(), calls.c_core()):
        assert len(set(places(client, config).values())) == 1
