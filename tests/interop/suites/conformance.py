"""One change to a good set of resources: calls of our client and of gRPC C-core's come to the same."""

import copy
import threading
from dataclasses import dataclass
from typing import Callable

import pytest

from support import calls, servers
from support.ads import AdsServer
from support.xds import GOOGLE, HTTP2, bootstrap, fault, member, percent, service

NAME = "svc.test"
METHOD = "/t.S/M"
# A call that a client makes wait fails then.
DEADLINE = "2s"
# So long the server takes for a call that is to fail by its time: more than a limit of the route, which then is what ends
# it, and less than the deadline, so that a limit that nothing acts on shows.
HOLD = {"echo-hold": "1"}

_POLICIES = GOOGLE + "envoy.extensions.load_balancing_policies"
_TLS = GOOGLE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_AGGREGATE = GOOGLE + "envoy.extensions.clusters.aggregate.v3.ClusterConfig"
_UNKNOWN = GOOGLE + "xds.test.Unknown"
_STRUCT = GOOGLE + "xds.type.v3.TypedStruct"


class Set:
    """A good set of resources, with names for what is changed in it."""

    def __init__(self, backend):
        self.listener, self.routes, self.cluster, self.endpoints = self.all = service(NAME, backend)
        self.manager = self.listener["api_listener"]["api_listener"]
        self.host = self.routes["virtual_hosts"][0]
        self.route = self.host["routes"][0]
        self.match = self.route["match"]
        self.action = self.route["route"]
        self.locality = self.endpoints["endpoints"][0]
        self.member = self.locality["lb_endpoints"][0]

    def filter(self, name, config, **more):
        """A filter before the router."""
        self.manager["http_filters"].insert(-1, {"name": name, "typed_config": config, **more})

    def fault(self, **config):
        self.filter("fault", fault(**config))

    def match_headers(self, **matcher):
        self.match["headers"] = [matcher]

    def act(self, **action):
        """Another action than to call a cluster."""
        del self.route["route"]
        self.route.update(action)

    def clusters(self, *clusters, **more):
        self.route["route"] = {"weighted_clusters": {"clusters": list(clusters), **more}}

    def retry(self, **policy):
        self.action["retry_policy"] = policy

    def policies(self, *policies):
        entry = lambda policy: {"typed_extension_config": {"name": "policy", "typed_config": policy}}
        self.cluster["load_balancing_policy"] = {"policies": [entry(policy) for policy in policies]}

    def outliers(self, **detection):
        self.cluster["outlier_detection"] = detection

    def type(self, kind, **more):
        """A cluster that has its endpoints with it."""
        del self.cluster["eds_cluster_config"]
        self.cluster.update({"type": kind, **more})

    def assignment(self, *addresses):
        return {"cluster_name": NAME, "endpoints": [{"lb_endpoints": [member(each) for each in addresses]}]}

    def drop(self, numerator, denominator="HUNDRED", **category):
        dropped = {"drop_percentage": {"numerator": numerator, "denominator": denominator}, **category}
        self.endpoints["policy"] = {"drop_overloads": [dropped]}

    def port(self):
        return self.member["endpoint"]["address"]["socket_address"]["port_value"]


def lb(policy, **config):
    kind = {"round_robin": "RoundRobin", "ring_hash": "RingHash", "least_request": "LeastRequest", "maglev": "Maglev"}
    kind |= {"pick_first": "PickFirst", "random": "Random"}
    kind |= {"wrr_locality": "WrrLocality", "client_side_weighted_round_robin": "ClientSideWeightedRoundRobin"}
    return {"@type": f"{_POLICIES}.{policy}.v3.{kind[policy]}", **config}


def wrr_locality(child):
    inner = {"policies": [{"typed_extension_config": {"name": "child", "typed_config": child}}]}
    return lb("wrr_locality", endpoint_picking_policy=inner)


@dataclass(frozen=True)
class Row:
    """A change, and what calls come to with C-core; with ours, when that is meant to differ."""

    what: str
    change: Callable
    c_core: str
    mesh: str = ""


NACK = "NACK"
UNAVAILABLE = "UNAVAILABLE"
WAITS = "DEADLINE_EXCEEDED"

LISTENERS = [
    Row("nothing", lambda s: None, "OK"),
    Row("no filters", lambda s: s.manager.update(http_filters=[]), NACK),
    Row("two filters of one name", lambda s: (s.fault(), s.fault()), NACK),
    Row("unknown filter", lambda s: s.filter("x", {"@type": _STRUCT, "type_url": _UNKNOWN}), NACK),
    Row(
        "unknown optional filter",
        lambda s: s.filter("x", {"@type": _STRUCT, "type_url": _UNKNOWN}, is_optional=True),
        "OK",
    ),
    Row(
        "routes from a file",
        lambda s: s.manager["rds"].update(config_source={"path_config_source": {"path": "/x"}}),
        NACK,
    ),
    Row(
        "max_stream_duration of the connection manager",
        lambda s: s.manager.update(common_http_protocol_options={"max_stream_duration": "0.001s"}),
        WAITS,
    ),
]

FAULTS = [
    Row("abort without a percentage", lambda s: s.fault(abort={"grpc_status": 5}), "OK"),
    Row("abort of nothing", lambda s: s.fault(abort={"percentage": percent(100)}), "OK"),
    Row(
        "override of a filter that is not there", lambda s: s.route.update(typed_per_filter_config={"y": fault()}), "OK"
    ),
    Row(
        "override of an unknown type",
        lambda s: s.route.update(typed_per_filter_config={"y": {"@type": _STRUCT, "type_url": _UNKNOWN}}),
        NACK,
    ),
]

ROUTES = [
    Row("no domain matches", lambda s: s.host.update(domains=["other.test"]), UNAVAILABLE),
    Row("domain with a port", lambda s: s.host.update(domains=[f"{NAME}:50051"]), UNAVAILABLE),
    Row("star in the middle of a domain", lambda s: s.host.update(domains=["a*b"]), NACK),
    Row("no routes", lambda s: s.host.update(routes=[]), UNAVAILABLE),
    Row("match without a path", lambda s: s.match.clear(), NACK),
    Row("prefix //", lambda s: s.match.update(prefix="//"), UNAVAILABLE),
    Row("prefix of the service", lambda s: s.match.update(prefix="/t.S/"), "OK"),
    Row("regex of the whole path", lambda s: s.route.update(match={"safe_regex": {"regex": "/t.S/."}}), "OK"),
    Row("regex of a part of the path", lambda s: s.route.update(match={"safe_regex": {"regex": "/t.S/"}}), UNAVAILABLE),
    Row("invalid regex", lambda s: s.route.update(match={"safe_regex": {"regex": "[a"}}), NACK),
    Row("fraction 0", lambda s: s.match.update(runtime_fraction={"default_value": percent(0)}), UNAVAILABLE),
    Row(
        "header content-type",
        lambda s: s.match_headers(name="content-type", string_match={"exact": "application/grpc"}),
        "OK",
    ),
    Row("header user-agent", lambda s: s.match_headers(name="user-agent", present_match=True), UNAVAILABLE),
    Row(
        "absent header, inverted",
        lambda s: s.match_headers(name="x-no", string_match={"exact": "1"}, invert_match=True),
        UNAVAILABLE,
    ),
    Row("range from more to less", lambda s: s.match_headers(name="x", range_match={"start": "9", "end": "1"}), NACK),
    Row("empty cluster name", lambda s: s.action.update(cluster=""), NACK),
    Row("only weight 0", lambda s: s.clusters({"name": NAME, "weight": 0}), NACK),
    Row("no weighted clusters", lambda s: s.clusters(), NACK),
    Row("weighted cluster without a name", lambda s: s.clusters({"weight": 1}), NACK),
    Row("total weight that is not the sum", lambda s: s.clusters({"name": NAME, "weight": 5}, total_weight=100), "OK"),
    Row(
        "weights beyond 32 bits",
        lambda s: s.clusters({"name": NAME, "weight": 2**32 - 1}, {"name": NAME, "weight": 9}),
        NACK,
    ),
    Row("non-forwarding action", lambda s: s.act(non_forwarding_action={}), UNAVAILABLE),
    Row("timeout of the route", lambda s: s.action.update(timeout="0.000000001s"), "OK"),
    Row("max_stream_duration", lambda s: s.action.update(max_stream_duration={"max_stream_duration": "0.001s"}), WAITS),
    Row("cookie to hash by", lambda s: s.action.update(hash_policy=[{"cookie": {"name": "c"}}]), "OK"),
    Row(
        "headers to add",
        lambda s: s.route.update(request_headers_to_add=[{"header": {"key": "x-a", "value": "1"}}]),
        "OK",
    ),
    Row(
        "mirror to a cluster that is not there",
        lambda s: s.action.update(request_mirror_policies=[{"cluster": "nowhere"}]),
        "OK",
    ),
    Row("cluster that never comes", lambda s: s.action.update(cluster="nowhere"), WAITS),
]

RETRIES = [
    Row("no retries", lambda s: s.retry(retry_on="unavailable", num_retries=0), NACK),
    Row("conditions of HTTP only", lambda s: s.retry(retry_on="5xx,connect-failure"), "OK"),
    Row(
        "back-off without a base",
        lambda s: s.retry(retry_on="unavailable", retry_back_off={"max_interval": "1s"}),
        NACK,
    ),
    # A44 takes 1 ms for it; C-core makes a policy of it that it then refuses itself.
    Row(
        "back-off of 0",
        lambda s: s.retry(retry_on="unavailable", retry_back_off={"base_interval": "0s"}),
        UNAVAILABLE,
        "OK",
    ),
    # A44 says NACK, which C-core does not do.
    Row(
        "back-off that ends below its base",
        lambda s: s.retry(retry_on="unavailable", retry_back_off={"base_interval": "1s", "max_interval": "0.5s"}),
        "OK",
        NACK,
    ),
]

CLUSTERS = [
    Row("ring hash", lambda s: s.cluster.update(lb_policy="RING_HASH"), "OK"),
    Row("ring hash as a policy", lambda s: s.policies(lb("ring_hash")), "OK"),
    Row("maglev", lambda s: s.cluster.update(lb_policy="MAGLEV"), NACK, "OK"),
    Row(
        "no requests at once",
        lambda s: s.cluster.update(circuit_breakers={"thresholds": [{"max_requests": 0}]}),
        UNAVAILABLE,
    ),
    Row(
        "ring beyond 8 M",
        lambda s: s.cluster.update(lb_policy="RING_HASH", ring_hash_lb_config={"maximum_ring_size": 9_000_000}),
        NACK,
    ),
    Row(
        "ring with its least above its most",
        lambda s: s.cluster.update(
            lb_policy="RING_HASH", ring_hash_lb_config={"minimum_ring_size": 9, "maximum_ring_size": 8}
        ),
        NACK,
    ),
    Row(
        "ring by murmur",
        lambda s: s.cluster.update(lb_policy="RING_HASH", ring_hash_lb_config={"hash_function": "MURMUR_HASH_2"}),
        NACK,
    ),
    # What gRPC refuses has Envoy's meaning.
    Row("least request", lambda s: s.cluster.update(lb_policy="LEAST_REQUEST"), NACK, "OK"),
    Row("random", lambda s: s.cluster.update(lb_policy="RANDOM"), NACK, "OK"),
    Row("least request as a policy", lambda s: s.policies(lb("least_request")), NACK, "OK"),
    Row("random as a policy", lambda s: s.policies(lb("random")), NACK, "OK"),
    Row("round robin by locality", lambda s: s.policies(wrr_locality(lb("round_robin"))), "OK"),
    Row(
        "unknown policy, then a known one",
        lambda s: s.policies({"@type": _STRUCT, "type_url": _UNKNOWN}, wrr_locality(lb("round_robin"))),
        "OK",
    ),
    Row("unknown policy only", lambda s: s.policies({"@type": _STRUCT, "type_url": _UNKNOWN}), NACK),
    Row("locality weights without a policy", lambda s: s.policies(lb("wrr_locality")), NACK),
    Row(
        "slow start",
        lambda s: s.cluster.update(round_robin_lb_config={"slow_start_config": {"slow_start_window": "1s"}}),
        "OK",
    ),
    Row("ejection of 101 %", lambda s: s.outliers(max_ejection_percent=101), NACK),
    Row("enforcement of 101 %", lambda s: s.outliers(enforcing_success_rate=101), NACK),
    Row("negative interval of outliers", lambda s: s.outliers(interval="-1s"), NACK),
    Row("negative time of ejection", lambda s: s.outliers(base_ejection_time="-1s"), NACK),
    Row("consecutive errors", lambda s: s.outliers(consecutive_5xx=1), "OK"),
    Row(
        "one request at once", lambda s: s.cluster.update(circuit_breakers={"thresholds": [{"max_requests": 1}]}), "OK"
    ),
    Row(
        "no requests at once of high priority",
        lambda s: s.cluster.update(circuit_breakers={"thresholds": [{"priority": "HIGH", "max_requests": 0}]}),
        "OK",
    ),
    Row(
        "empty TLS context",
        lambda s: s.cluster.update(transport_socket={"name": "tls", "typed_config": {"@type": _TLS}}),
        NACK,
    ),
    Row(
        "aggregate of nothing",
        lambda s: (
            s.type("EDS"),
            s.cluster.pop("type"),
            s.cluster.update(cluster_type={"name": "a", "typed_config": {"@type": _AGGREGATE}}),
        ),
        NACK,
    ),
    Row("subsets", lambda s: s.cluster.update(lb_subset_config={"fallback_policy": "ANY_ENDPOINT"}), "OK"),
    Row(
        "active health checks",
        lambda s: s.cluster.update(
            health_checks=[
                {
                    "timeout": "1s",
                    "interval": "1s",
                    "unhealthy_threshold": 1,
                    "healthy_threshold": 1,
                    "tcp_health_check": {},
                }
            ]
        ),
        "OK",
    ),
    Row("load reports elsewhere", lambda s: s.cluster.update(lrs_server={"ads": {}}), NACK),
    Row(
        "endpoints from a file",
        lambda s: s.cluster.update(eds_cluster_config={"eds_config": {"path_config_source": {"path": "/x"}}}),
        NACK,
    ),
    Row(
        "two hosts by DNS",
        lambda s: s.type("LOGICAL_DNS", load_assignment=s.assignment("localhost:1", "localhost:2")),
        NACK,
    ),
    Row("original destination", lambda s: s.type("ORIGINAL_DST"), NACK),
    Row("HTTP/2 options", lambda s: s.cluster.update(typed_extension_protocol_options=HTTP2), "OK"),
]

ENDPOINTS = [
    Row("no localities", lambda s: s.endpoints.update(endpoints=[]), UNAVAILABLE),
    Row("no locality weight", lambda s: s.locality.pop("load_balancing_weight"), UNAVAILABLE),
    Row("locality weight 0", lambda s: s.locality.update(load_balancing_weight=0), UNAVAILABLE),
    Row("no locality name", lambda s: s.locality.pop("locality"), NACK),
    Row("no priority 0", lambda s: s.locality.update(priority=1), NACK),
    Row("one locality twice", lambda s: s.endpoints["endpoints"].append(s.locality), NACK),
    Row("endpoint weight 0", lambda s: s.member.update(load_balancing_weight=0), NACK),
    Row("endpoint unhealthy", lambda s: s.member.update(health_status="UNHEALTHY"), UNAVAILABLE),
    Row("endpoint draining", lambda s: s.member.update(health_status="DRAINING"), UNAVAILABLE),
    Row(
        "host name as an address",
        lambda s: s.member["endpoint"]["address"]["socket_address"].update(address="localhost"),
        NACK,
    ),
    Row("drop 100 %", lambda s: s.drop(100, category="all"), UNAVAILABLE),
    Row("drop 0 %", lambda s: s.drop(0, category="none"), "OK"),
    Row("drop 250 %", lambda s: s.drop(250, category="all"), UNAVAILABLE),
    Row("drop without a category", lambda s: s.drop(100), NACK),
    Row("overprovisioning", lambda s: s.endpoints.update(policy={"overprovisioning_factor": 140}), "OK"),
    Row(
        "locality weights beyond 32 bits",
        lambda s: s.endpoints["endpoints"].append(
            {**s.locality, "locality": {"region": "b"}, "load_balancing_weight": 2**32 - 1}
        ),
        NACK,
    ),
]

ROWS = LISTENERS + FAULTS + ROUTES + RETRIES + CLUSTERS + ENDPOINTS


@pytest.fixture(scope="module")
def backend(module_programs):
    return servers.c_core_echo(module_programs)


def outcome(programs, folder, client, resources, headers):
    """The status of a call, or that a resource was refused."""
    server = AdsServer(*resources).start()
    try:
        config = bootstrap(folder, server.address)
        options = {"bootstrap": config, "headers": headers, "deadline": DEADLINE}
        done = calls.call(programs, client, f"xds:///{NAME}", METHOD, **options)
        # What a call says, and not the control plane: it may be gone before its NACK is.
        refused = any(word in (done.message or "") for word in ("was rejected", "invalid resource"))
        return (NACK if refused else done.code), done.message
    finally:
        server.stop()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what.replace(" ", "-"))
def test_change(programs, tmp_path, backend, row):
    changed = Set(backend.address)
    row.change(changed)
    found = {}
    headers = HOLD if row.c_core == WAITS else {}

    def run(client, resources):
        found[client.name] = outcome(programs, tmp_path, client, resources, headers)

    # Each has resources of its own: while one is encoded, its type is taken out of it.
    own = lambda: copy.deepcopy(changed.all)
    both = [threading.Thread(target=run, args=[client(), own()]) for client in (calls.mesh, calls.c_core)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found["c-core"][0] == row.c_core, found
    assert found["mesh"][0] == (row.mesh or row.c_core), found
