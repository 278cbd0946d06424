"""Routes and filters: what our client sends, to whom, and what it answers itself, is what Envoy makes of the same."""

import json
import math

import pytest

from support import calls, servers, xds
from support.envoy import Envoy, http2_cluster, plain
from support.scripted import Scripted, message, silence
from support.wait import until
from support.xds import bootstrap, cluster, endpoints, fault, listener, percent, route, routes

TARGET = "xds:///table"
AUTHORITY = "table.test"
SAY = "/interop.Echo/Say"
_MUTATION = xds.GOOGLE + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
_MUTATION_PER_ROUTE = _MUTATION + "PerRoute"
_RATE_LIMIT = xds.GOOGLE + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
# What a proxy adds of its own, and times.
OWN = ("x-envoy-", "x-forwarded-", "x-request-id", "grpc-timeout", "x-side")


def add(name, value, action="APPEND_IF_EXISTS_OR_ADD", **more):
    return {"header": {"key": name, "value": value}, "append_action": action, **more}


def overwrite(name, value):
    return add(name, value, "OVERWRITE_IF_EXISTS_OR_ADD")


def forward(target="one", **action):
    entry = route(target)
    entry["route"] |= action
    return entry


def with_headers(entry, **lists):
    return entry | lists


def changing(*additions, remove=()):
    return with_headers(forward(), request_headers_to_add=list(additions), request_headers_to_remove=list(remove))


def weighted(host=None, route_host=None):
    entry = route({"one": 1, "two": 0})
    if route_host:
        entry["route"]["host_rewrite_literal"] = route_host
    lists = {"request_headers_to_add": [add("x-level", "cluster")], "request_headers_to_remove": ["x-b"]}
    entry["route"]["weighted_clusters"]["clusters"][0] |= lists | ({"host_rewrite_literal": host} if host else {})
    return entry | {"request_headers_to_add": [add("x-level", "route")]}


def mutating(*mutations):
    per_route = {"@type": _MUTATION_PER_ROUTE, "mutations": {"request_mutations": list(mutations)}}
    return forward() | {"typed_per_filter_config": {"mutation": per_route}}


def answering(**answer):
    return {"match": {}, **answer}


def regex(pattern, substitution):
    return {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": substitution}}


# The route of each row without what it matches beside the row's number, and what that is.
ROWS = {
    "nothing": forward(),
    "append to a header": changing(add("x-a", "new")),
    "append a new header": changing(add("x-new", "1"), add("x-new", "2")),
    "add if absent": changing(add("x-a", "new", "ADD_IF_ABSENT"), add("x-new", "new", "ADD_IF_ABSENT")),
    "overwrite or add": changing(overwrite("x-a", "new"), overwrite("x-new", "new")),
    "overwrite": changing(add("x-a", "new", "OVERWRITE_IF_EXISTS"), add("x-new", "new", "OVERWRITE_IF_EXISTS")),
    "remove": changing(remove=["x-a", "x-absent"]),
    "remove and add": changing(add("x-a", "new"), remove=["x-a"]),
    "an empty value": changing(overwrite("x-a", "")),
    "an empty value that is kept": changing(overwrite("x-a", "") | {"keep_empty_value": True}),
    "substitutions": changing(
        add("x-path", "%REQ(:path)%"),
        add("x-host", "%REQ(:authority)%"),
        add("x-method", "<%REQ(:method)%>"),
        add("x-copy", "%REQ(x-a)% and %REQ(x-absent?x-b)%"),
        add("x-short", "%REQ(x-a):2%"),
        add("x-none", "%REQ(x-absent)%"),
        add("x-percent", "100%%"),
        add("x-route", "%ROUTE_NAME%"),
        add("x-cluster", "%UPSTREAM_CLUSTER%"),
        add("x-protocol", "%PROTOCOL%"),
    )
    | {"name": "the route"},
    "weighted clusters": weighted(),
    "a filter": forward(),
    "a filter and its route": mutating(
        {"append": add("x-filter", "route")},
        {"append": overwrite("x-b", "%REQ(x-a)%")},
        {"remove": "x-a"},
    ),
    "a prefix": forward(prefix_rewrite="/other") | {"match": {"prefix": "/interop"}},
    "a prefix of all": forward(prefix_rewrite="/other/") | {"match": {"prefix": "/"}},
    "a prefix away": forward(prefix_rewrite="/") | {"match": {"prefix": "/interop.Echo/"}},
    "a whole path": forward(prefix_rewrite="/x/Y") | {"match": {"path": SAY}},
    "a path by a regex": forward(prefix_rewrite="/x/Y") | {"match": {"safe_regex": {"regex": ".*/Say"}}},
    "by a pattern": forward(**regex("^/([^/]+)/(.*)$", r"/\2/\1")),
    "by a pattern, everywhere": forward(**regex("[aeo]", r"\0\0-")),
    "by a pattern that does not match": forward(**regex("^/x", "/y")),
    "a host": forward(host_rewrite_literal="elsewhere.test:81"),
    "a host of a weighted cluster": weighted(host="cluster.test"),
    "hosts of a weighted cluster and its route": weighted(host="cluster.test", route_host="route.test"),
    "a cluster by header": {"match": {}, "route": {"cluster_header": "x-cluster"}},
    "a cluster by a header that is not there": {"match": {}, "route": {"cluster_header": "x-absent"}},
    "a mirror": forward(request_mirror_policies=[{"cluster": "mirror"}]),
    "a mirror without a suffix": forward(
        request_mirror_policies=[{"cluster": "mirror", "disable_shadow_host_suffix_append": True}]
    ),
    "a mirror of what was changed": with_headers(
        forward(prefix_rewrite="/other", request_mirror_policies=[{"cluster": "mirror"}]),
        request_headers_to_add=[add("x-new", "1")],
    ),
    "a mirror at 0 %": forward(
        request_mirror_policies=[{"cluster": "mirror", "runtime_fraction": {"default_value": percent(0)}}]
    ),
    "a mirror that does not answer": forward(request_mirror_policies=[{"cluster": "dead"}]),
    "a redirect": answering(redirect={"host_redirect": "elsewhere.test", "response_code": "FOUND"}),
    **{
        f"a direct response of {status}": answering(
            direct_response={"status": status, "body": {"inline_string": f"closed with {status}"}}
        )
        for status in (200, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504)
    },
}
# Of these, the mirror sees a copy.
MIRRORED = ("a mirror", "a mirror without a suffix", "a mirror of what was changed")
HEADERS = {"x-a": "first", "x-b": "second", "x-cluster": "two"}
NAMES = list(ROWS)


def table(most_specific_wins=False):
    """All rows; each level adds to the header `x-level`."""
    entries = []
    for row, entry in enumerate(ROWS.values()):
        match = {"headers": [{"name": "x-row", "string_match": {"exact": str(row)}}]}
        match |= {"prefix": "/"} | entry["match"] if "prefix" in entry["match"] or not entry["match"] else entry["match"]
        entries.append(entry | {"match": match})
    whole = routes("table", *entries)
    level = lambda name: {"request_headers_to_add": [add("x-level", name), overwrite("x-last", name)]}
    whole["virtual_hosts"][0] |= level("host")
    return whole | level("whole") | {"most_specific_header_mutations_wins": most_specific_wins}


def filters():
    mutations = {"request_mutations": [{"append": add("x-filter", "filter")}]}
    return [{"name": "mutation", "typed_config": {"@type": _MUTATION, "mutations": mutations}}]


class Servers:
    """What calls may be sent to."""

    def __init__(self):
        self.by_cluster = {name: Scripted([message()] * len(ROWS)) for name in ("one", "two", "mirror")}

    def sets(self):
        pairs = [(name, *server.addresses) for name, server in self.by_cluster.items()] + [("dead", "127.0.0.1:1")]
        return [(cluster(name, typed_extension_protocol_options=xds.HTTP2), endpoints(name, *at)) for name, *at in pairs]

    def seen(self, side, row):
        """Who had the call of a row, and its head there."""
        heads = {name: server.heads.get((side, row)) for name, server in self.by_cluster.items()}
        return {name: comparable(head) for name, head in heads.items() if head}

    def stop(self):
        for server in self.by_cluster.values():
            server.stop()


def comparable(head):
    """A request's fields: those of one name as one, as they mean the same."""
    fields = {}
    for name, value in head:
        if not name.startswith(OWN):
            fields.setdefault(name, []).append(value)
    return {name: ",".join(values) for name, values in fields.items()}


def trusted(file):
    """The bootstrap of a client whose control plane may rewrite authorities (A81)."""
    config = json.loads(file.read_text())
    config["xds_servers"][0]["server_features"].append("trusted_xds_server")
    file.write_text(json.dumps(config))
    return file


def envoy(programs, whole, before, *sets):
    inbound = plain(xds.socket_listener("in", codec_type="HTTP2", route_config=plain(whole)))
    manager = inbound["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][:0] = before
    clusters = [static(known, members) for known, members in sets]
    return Envoy(programs, {"static_resources": {"listeners": [inbound], "clusters": clusters}})


def static(known, members):
    return http2_cluster(xds.name_of(known), type="STATIC", load_assignment=plain(members))


class Both:
    """Our client, and Envoy behind a client, configured alike."""

    def __init__(self, programs, serve, whole, before, *sets):
        self.programs = programs
        resources = [listener("table", filters=before), whole, *(part for pair in sets for part in pair)]
        self.config = trusted(serve(*resources))
        self.envoy = envoy(programs, whole, before, *sets)

    def call(self, **options):
        headers = HEADERS | options.pop("headers", {})
        options |= {"each": True, "authority": AUTHORITY}
        marked = lambda side: {**headers, "x-side": side}
        ours = calls.call(self.programs, calls.mesh(), TARGET, bootstrap=self.config, headers=marked("mesh"), **options)
        through = f"static:///{self.envoy.listener('in')}"
        theirs = calls.call(self.programs, calls.mesh(), through, headers=marked("envoy"), **options)
        return {"mesh": ours, "envoy": theirs}


@pytest.fixture(scope="module", params=[False, True], ids=["least specific level last", "most specific level last"])
def rows(request, module_programs, tmp_path_factory):
    """Makes the call of each row on both sides; what became of it, and who saw it."""
    backends = Servers()
    tmp = tmp_path_factory.mktemp("rows")
    both = Both(module_programs, server_of(module_programs, tmp), table(request.param), filters(), *backends.sets())
    done = both.call(count=len(ROWS), headers={"x-row": "{n}"}, deadline="5s")
    mirrored = [NAMES.index(name) for name in MIRRORED]
    arrived = lambda: all((side, row) in backends.by_cluster["mirror"].heads for side in done for row in mirrored)
    until(arrived, 10, "the copies")
    backends.stop()
    return {side: {each["n"]: each for each in summary.each} for side, summary in done.items()}, backends


def server_of(programs, tmp):
    """As the fixture `serve`, for a whole suite."""
    folder = xds.Folder(tmp / "resources")

    def start(*resources):
        folder.put(*resources)
        return bootstrap(tmp, servers.control_plane(programs, folder).address)

    return start


def differences(ours, theirs):
    """By server and name of a field, what each side sent."""
    names = {(server, name) for seen in (ours, theirs) for server, head in seen.items() for name in head}
    value = lambda seen, server, name: seen.get(server, {}).get(name)
    both = {(server, name): (value(ours, server, name), value(theirs, server, name)) for server, name in names}
    return {of: values for of, values in both.items() if values[0] != values[1]}


@pytest.mark.parametrize("row", range(len(ROWS)), ids=NAMES)
def test_row(rows, row):
    done, backends = rows
    seen = {side: backends.seen(side, row) for side in ("mesh", "envoy")}
    assert differences(seen["mesh"], seen["envoy"]) == {}
    codes = {side: done[side][row]["code"] for side in seen}
    assert codes["mesh"] == codes["envoy"], done
    assert bool(seen["mesh"]) == (codes["mesh"] == "OK")
    if answer := ROWS[NAMES[row]].get("direct_response"):
        messages = {done[side][row]["message"] for side in seen}
        assert messages == {answer["body"]["inline_string"]}


def limiting(**more):
    """So many calls at once, and then one an hour."""
    return {
        "@type": _RATE_LIMIT,
        "stat_prefix": "limit",
        "token_bucket": {"max_tokens": 20, "fill_interval": "3600s"},
        "filter_enabled": {"default_value": percent(100)},
        "filter_enforced": {"default_value": percent(100)},
        **more,
    }


@pytest.fixture
def one(programs, serve):
    """Configures both sides for a server that answers everything, by one route."""
    backends = Servers()

    def start(entry, *before):
        return Both(programs, serve, routes("table", entry), list(before), *backends.sets()), backends

    yield start
    backends.stop()


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "UNAVAILABLE"),
        ({"status": {"code": "Forbidden"}}, "PERMISSION_DENIED"),
        ({"status": {"code": "OK"}}, "UNAVAILABLE"),
        ({"rate_limited_as_resource_exhausted": True}, "RESOURCE_EXHAUSTED"),
        ({"filter_enforced": None}, None),
        ({"filter_enabled": None}, None),
    ],
)
def test_rate_limit(one, more, code):
    limit = {key: value for key, value in limiting(**more).items() if value is not None}
    both, _ = one(forward(), {"name": "limit", "typed_config": limit})
    done = both.call(count=50, headers={"x-row": "0"})
    for side in done.values():
        assert side.codes == ({"OK": 20, code: 30} if code else {"OK": 50})
        assert (side.message or None) == ("local_rate_limited" if code else None)


def test_tokens_of_a_rate_limit_come_back(one):
    """At 100 calls a second for 3 s: the bucket, and then ten each 0.2 s, evenly."""
    bucket = {"max_tokens": 20, "tokens_per_fill": 10, "fill_interval": "0.2s"}
    both, _ = one(forward(), {"name": "limit", "typed_config": limiting(token_bucket=bucket)})
    done = both.call(count=300, rate=100, headers={"x-row": "0"})
    for side in done.values():
        assert side.codes["OK"] == pytest.approx(170, abs=5)


def test_abort_by_header_with_each_status_of_http(one):
    """Of C-core's client there is nothing to compare: it takes no notice of this header."""
    abort = {"header_abort": {}, "percentage": percent(100)}
    both, _ = one(forward(), {"name": "fault", "typed_config": fault(abort=abort)})
    done = both.call(count=650, headers={"x-row": "0", "x-envoy-fault-abort-request": "{n}"})
    ours, theirs = ({each["n"]: each["code"] for each in done[side].each} for side in ("mesh", "envoy"))
    assert {status: (code, theirs[status]) for status, code in ours.items() if code != theirs[status]} == {}


def test_share_of_the_calls_is_mirrored(one):
    share = {"runtime_fraction": {"default_value": percent(20)}}
    both, backends = one(forward(request_mirror_policies=[{"cluster": "mirror", **share}]))
    number = 2_000
    done = both.call(count=number, concurrency=8, headers={"x-row": "0"})
    taken = backends.by_cluster["mirror"].taken
    deviation = math.sqrt(number * 0.2 * 0.8)
    for name, side in done.items():
        assert side.codes == {"OK": number}
        near = pytest.approx(number * 0.2, abs=4 * deviation)
        until(lambda: taken[name, 0] == near, 10, f"a fifth of the calls at the mirror of {name}")
        assert taken[name, 0] == near


def test_no_call_waits_for_its_mirror(one):
    """Neither side's calls take longer for a mirror that never answers."""
    both, backends = one(forward(request_mirror_policies=[{"cluster": "mirror"}]))
    backends.by_cluster["mirror"].answers = [silence]
    done = both.call(count=300, concurrency=3, headers={"x-row": "0"})
    for side in done.values():
        assert (side.codes, side.max_ms < 2_000) == ({"OK": 300}, True)
