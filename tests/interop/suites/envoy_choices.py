"""Load balancing: our client chooses endpoints as Envoy does by the same cluster, key by key and share by share."""

import pytest

from support import calls, seeds, servers
from support.envoy import proxy
from support.xds import assignment, bootstrap, cluster, endpoints, listener, locality, member, route, routes

TARGET = "xds:///table"
KEYS = 400
# One percentage point over so many calls is more than ten standard deviations of any share by chance.
CALLS = 50_000
POINT = 0.01
BY_USER = [{"header": {"header_name": "x-user"}}]
LOCALITY_WEIGHTS = {"common_lb_config": {"locality_weighted_lb_config": {}}}


@pytest.fixture
def backends(programs):
    return [servers.go_echo(programs).address for _ in range(6)]


@pytest.fixture
def sides(programs, serve):
    """Configures our client and an Envoy alike: the bootstrap for the one, and the other."""

    def start(table, *sets):
        config = serve(listener("table"), table, *(part for pair in sets for part in pair))
        return Sides(programs, config, proxy(programs, table, *sets))

    return start


class Sides:
    def __init__(self, programs, config, envoy):
        self.programs, self.config, self.envoy = programs, config, envoy

    def places(self):
        """The endpoint of each key, which is the same on both sides."""
        options = {"count": KEYS, "each": True, "headers": {"x-user": "user-{n}"}}
        ours = calls.call(self.programs, calls.mesh(), TARGET, bootstrap=self.config, **options)
        # C-core's client, which tells who answered behind Envoy.
        theirs = calls.call(self.programs, calls.c_core(), self._through(), **options)
        assert (ours.codes, theirs.codes) == ({"OK": KEYS}, {"OK": KEYS})
        place = lambda done: {each["n"]: each["endpoint"] for each in done.each}
        assert place(ours) == place(theirs)
        return list(place(ours).values())

    def shares(self, **ours_only):
        """The share of each endpoint in many calls: ours, and Envoy's."""
        options = {"count": CALLS, "concurrency": 16, "within": 110}
        ours_only |= seeds.option(calls.mesh())
        ours = calls.call(self.programs, calls.mesh(), TARGET, bootstrap=self.config, **options, **ours_only)
        theirs = calls.call(self.programs, calls.mesh(), self._through(), **options)
        assert (ours.codes, theirs.codes) == ({"OK": CALLS}, {"OK": CALLS})
        taken = self.envoy.requests()
        return {at: count / CALLS for at, count in ours.endpoints.items()}, {
            at: n / CALLS for at, n in taken.items() if n
        }

    def _through(self):
        return f"static:///{self.envoy.listener('in')}"


def hashed():
    table = routes("table", route("hashed"))
    table["virtual_hosts"][0]["routes"][0]["route"]["hash_policy"] = BY_USER
    return table


def ring(**more):
    return cluster("hashed", lb_policy="RING_HASH", **more)


def maglev(**more):
    return cluster("hashed", lb_policy="MAGLEV", **more)


@pytest.mark.parametrize("policy", [ring, maglev])
def test_each_key_has_its_endpoint(sides, backends, policy):
    places = sides(hashed(), (policy(), endpoints("hashed", *backends))).places()
    assert set(places) == set(backends)


@pytest.mark.parametrize("policy", [ring, maglev])
def test_each_key_has_its_endpoint_by_weight(sides, backends, policy):
    weighted = [member(at, weight=weight) for weight, at in enumerate(backends, 1)]
    places = sides(hashed(), (policy(), assignment("hashed", locality("one", *weighted)))).places()
    assert places.count(backends[5]) > places.count(backends[2]) > places.count(backends[0])


@pytest.mark.parametrize("policy", [ring, maglev])
def test_each_key_has_its_endpoint_by_weights_of_localities(sides, backends, policy):
    # As many in each: gRPC's ring multiplies the weights (A42), Envoy's divides that of the locality among its endpoints.
    near, far = locality("near", *backends[:3], weight=3), locality("far", *backends[3:], weight=1)
    sides(hashed(), (policy(**LOCALITY_WEIGHTS), assignment("hashed", near, far))).places()


@pytest.mark.parametrize("bounds", [{"minimum_ring_size": 1}, {"minimum_ring_size": 7, "maximum_ring_size": 50}])
def test_rings_of_other_sizes(sides, backends, bounds):
    sides(hashed(), (ring(ring_hash_lb_config=bounds), endpoints("hashed", *backends))).places()


@pytest.mark.parametrize("size", [7, 251, 65537])
def test_maglev_tables_of_other_sizes(sides, backends, size):
    sides(hashed(), (maglev(maglev_lb_config={"table_size": size}), endpoints("hashed", *backends))).places()


@pytest.mark.parametrize("policy", [ring, maglev])
def test_keys_move_alike_when_an_endpoint_goes(sides, backends, policy):
    before = sides(hashed(), (policy(), endpoints("hashed", *backends))).places()
    unhealthy = [*backends[:5], member(backends[5], health_status="UNHEALTHY")]
    after = sides(hashed(), (policy(), assignment("hashed", locality("local", *unhealthy)))).places()
    kept = [was == now for was, now in zip(before, after) if was != backends[5]]
    assert backends[5] not in after
    assert sum(kept) > 0.75 * len(kept)


def test_shares_of_weighted_clusters(sides, backends):
    weights = {"a": 5, "b": 15, "c": 80}
    sets = [(cluster(name), endpoints(name, at)) for name, at in zip(weights, backends)]
    ours, envoy = sides(routes("table", route(weights)), *sets).shares()
    for at, weight in zip(backends, weights.values()):
        assert ours[at] == pytest.approx(weight / 100, abs=POINT)
        assert ours[at] == pytest.approx(envoy[at], abs=POINT)


@pytest.mark.parametrize("policy", ["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"])
def test_shares_of_localities(sides, backends, policy):
    parts = [
        locality("a", backends[0], weight=1),
        locality("b", *backends[1:3], weight=3),
        locality("c", *backends[3:], weight=6),
    ]
    weighted = cluster("one", lb_policy=policy, **LOCALITY_WEIGHTS)
    ours, envoy = sides(routes("table", route("one")), (weighted, assignment("one", *parts))).shares()
    for ends, share in (backends[:1], 0.1), (backends[1:3], 0.3), (backends[3:], 0.6):
        of_locality = [sum(side[at] for at in ends) for side in (ours, envoy)]
        assert of_locality == [pytest.approx(share, abs=POINT)] * 2
        # Among those of a locality, the one that answers soonest has the least requests, and so more of them.
        for at in ends if policy != "LEAST_REQUEST" else ():
            assert ours[at] == pytest.approx(share / len(ends), abs=POINT)
            assert ours[at] == pytest.approx(envoy[at], abs=POINT)


def test_round_robin_gives_each_its_turn(sides, backends):
    ours, envoy = sides(routes("table", route("one")), (cluster("one"), endpoints("one", *backends))).shares()
    for at in backends:
        assert ours[at] == pytest.approx(1 / 6, abs=0.001)
        assert envoy[at] == pytest.approx(1 / 6, abs=0.001)


def health(*members):
    """Members of these states: `health((at, "UNHEALTHY"), …)`; healthy without one."""
    return [member(at, health_status=state) if state else at for at, state in members]


def levels(*sets, **policy):
    """An assignment with these members in each priority."""
    parts = [locality(f"p{number}", *health(*members), priority=number) for number, members in enumerate(sets)]
    return assignment("one", *parts) | ({"policy": policy} if policy else {})


def states(backends, *letters):
    """Priorities of backends in these states: `u`nhealthy, `d`egraded, or healthy: `states(backends, "..uu", "..")`."""
    names = {"u": "UNHEALTHY", "d": "DEGRADED", ".": None}
    left = iter(backends)
    return [[(next(left), names[letter]) for letter in level] for level in letters]


THRESHOLD_0 = {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}
# What the members of all priorities get, in percent: what Envoy gives them is compared in any case.
LEVELS = {
    "spill": (("..uu", ".."), {}, {}, [35, 35, 0, 0, 15, 15]),
    "spill without overprovisioning": (("..uu", ".."), {"overprovisioning_factor": 100}, {}, [25, 25, 0, 0, 25, 25]),
    "no spill while enough are healthy": (("...u", ".."), {}, {}, [33.3, 33.3, 33.3, 0, 0, 0]),
    "panic": (("..uuuu",), {}, {}, [16.7] * 6),
    "no panic at threshold 0": (("..uuuu",), {}, THRESHOLD_0, [50, 50, 0, 0, 0, 0]),
    "no panic of one priority while another has room": ((".uuu", ".."), {}, {}, [35, 0, 0, 0, 32.5, 32.5]),
    "panic of two priorities": ((".uuu", "uu"), {}, {}, None),
    "degraded": ((".ddd", ".."), {}, {}, None),
}


@pytest.mark.parametrize("case", LEVELS)
def test_shares_of_priorities(sides, backends, case):
    letters, policy, common, expected = LEVELS[case]
    parts = (cluster("one", **common), levels(*states(backends, *letters), **policy))
    ours, envoy = sides(routes("table", route("one")), parts).shares(profile="envoy")
    shares = [[round(100 * side.get(at, 0), 1) for at in backends] for side in (ours, envoy)]
    assert shares[0] == pytest.approx(shares[1], abs=100 * POINT)
    if expected:
        assert shares[0] == pytest.approx(expected, abs=100 * POINT)


# Of the callers and of the endpoints how many are in each of three zones, of which ours is the first, and what the cluster
# says besides: shares are compared, and equal to those expected where these are known.
ZONES = {
    "all stay": ((1, 1, 1), (2, 2, 2), {}, [1, 0, 0]),
    "two of three stay": ((2, 1, 1), (2, 2, 2), {}, [2 / 3, 1 / 6, 1 / 6]),
    "the others have room of their own": ((3, 1, 2), (2, 3, 1), {}, None),
    "few endpoints here": ((1, 1, 1), (1, 2, 3), {}, None),
    "many endpoints here": ((1, 2, 3), (4, 1, 1), {}, [1, 0, 0]),
    "half of the calls": ((1, 1, 1), (2, 2, 2), {"routing_enabled": {"value": 50}}, None),
    "too few endpoints": ((1, 1, 1), (2, 2, 2), {"min_cluster_size": 7}, [1 / 3] * 3),
    "none here": ((1, 1, 1), (0, 3, 3), {}, [0, 1 / 2, 1 / 2]),
}


@pytest.mark.parametrize("case", ZONES)
def test_shares_of_zones(programs, folder, tmp_path, backends, case):
    callers, counts, zones, expected = ZONES[case]
    left = iter(backends)
    members = [[next(left) for _ in range(count)] for count in counts]
    # Nobody calls the callers.
    peers = [[f"192.0.2.{zone + 1}:{port + 1}" for port in range(count)] for zone, count in enumerate(callers)]
    spread = lambda name, sets: assignment(name, *(locality(zone, *of) for zone, of in zip("abc", sets) if of))
    one = cluster("one", common_lb_config={"zone_aware_lb_config": zones})
    sets = [(one, spread("one", members)), (cluster("callers"), spread("callers", peers))]
    table = routes("table", route("one"))
    node = {"id": "interop", "cluster": "interop", "locality": {"region": "a"}}
    folder.put(listener("table"), table, *(part for pair in sets for part in pair))
    config = bootstrap(tmp_path, servers.control_plane(programs, folder).address, node)
    envoy = proxy(programs, table, *sets, node=node, cluster_manager={"local_cluster_name": "callers"})
    sides = Sides(programs, config, envoy).shares(profile="envoy", **{"local-cluster": "callers"})
    ours, theirs = ([sum(side.get(at, 0) for at in zone) for zone in members] for side in sides)
    assert ours == pytest.approx(theirs, abs=POINT)
    if expected:
        assert ours == pytest.approx(expected, abs=POINT)
