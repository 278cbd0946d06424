"""Composite filters (A103): a call's headers choose for our client which filters it passes, as for gRPC C-core's."""

import dataclasses

import pytest

from support import calls, seeds, servers, xds
from support.xds import fault, listener, percent, route, routes, service

TARGET = "xds:///greeter"
_WRAPPING = xds.GOOGLE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_COMPOSITE = xds.GOOGLE + "envoy.extensions.filters.http.composite.v3."
_HEADER = xds.GOOGLE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"


def c_core():
    enabled = {"GRPC_EXPERIMENTAL_XDS_COMPOSITE_FILTER": "true"}
    return dataclasses.replace(calls.c_core(), env=enabled)


@pytest.fixture(params=[calls.mesh, c_core], ids=["mesh", "c-core"])
def client(request):
    return request.param()


def named(config):
    return {"name": "named", "typed_config": config}


def abort(code):
    return fault(abort={"grpc_status": code, "percentage": percent(100)})


def action(kind, **config):
    return {"action": named({"@type": _COMPOSITE + kind, **config})}


def run(config, **more):
    return action("ExecuteFilterAction", typed_config=named(config), **more)


def chain(*configs):
    return action("ExecuteFilterAction", filter_chain={"typed_config": [named(config) for config in configs]})


SKIP = {"action": named({"@type": xds.GOOGLE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"})}


def by_header(branches, otherwise=None, kind="exact_match_map", header="x-for"):
    tree = {"matcher_tree": {"input": named({"@type": _HEADER, "header_name": header}), kind: {"map": branches}}}
    return tree | ({"on_no_match": otherwise} if otherwise else {})


def by_list(*branches, otherwise=None):
    """The first of these values that the header has leads to its branch."""
    matchers = []
    for value, branch in branches:
        single = {"input": named({"@type": _HEADER, "header_name": "x-for"}), "value_match": {"exact": value}}
        matchers.append({"predicate": {"single_predicate": single}, "on_match": branch})
    return {"matcher_list": {"matchers": matchers}} | ({"on_no_match": otherwise} if otherwise else {})


def composite(matcher):
    inner = named({"@type": _COMPOSITE + "Composite"})
    return {"@type": _WRAPPING, "extension_config": inner, "xds_matcher": matcher}


FIVE_AND_SIX = {"five": run(abort(5)), "six": run(abort(6)), "none": SKIP}
# The tree of each row, and what becomes of the calls whose header `x-for` is that; `-`: they have none.
ROWS = {
    "by value": (
        by_header(FIVE_AND_SIX),
        {"five": "NOT_FOUND", "six": "ALREADY_EXISTS", "none": "OK", "other": "UNAVAILABLE", "-": "UNAVAILABLE"},
    ),
    "with a branch for all others": (
        by_header(FIVE_AND_SIX, otherwise=SKIP),
        {"five": "NOT_FOUND", "none": "OK", "other": "OK", "-": "OK"},
    ),
    "all others pass a filter": (
        by_header({"none": SKIP}, otherwise=run(abort(7))),
        {"none": "OK", "other": "PERMISSION_DENIED", "-": "PERMISSION_DENIED"},
    ),
    "by prefix": (
        by_header({"f": run(abort(5)), "fi": run(abort(6))}, otherwise=SKIP, kind="prefix_match_map"),
        {"f": "NOT_FOUND", "fo": "NOT_FOUND", "five": "ALREADY_EXISTS", "x": "OK"},
    ),
    "the first that matches": (
        by_list(("five", run(abort(5))), ("five", run(abort(6))), ("none", SKIP), otherwise=run(abort(7))),
        {"five": "NOT_FOUND", "none": "OK", "other": "PERMISSION_DENIED"},
    ),
    "a tree in a tree": (
        by_header(
            {"inner": {"matcher": by_header({"yes": run(abort(5))}, otherwise=SKIP, header="x-inner")}}, otherwise=SKIP
        ),
        {"inner": "OK", "inner yes": "NOT_FOUND", "other": "OK"},
    ),
    "a chain of filters": (
        by_header({"five": chain(fault(), abort(5)), "six": chain(abort(6), abort(5))}, otherwise=SKIP),
        {"five": "NOT_FOUND", "six": "ALREADY_EXISTS", "other": "OK"},
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_headers_choose_the_filters(programs, serve, client, row):
    matcher, expected = ROWS[row]
    server = servers.c_core_echo(programs)
    filters = [named(composite(matcher))]
    config = serve(*service("greeter", server.address), listener("greeter", filters=filters))
    for value, code in expected.items():
        names = dict(zip(["x-for", "x-inner"], value.split())) if value != "-" else {}
        done = calls.call(programs, client, TARGET, bootstrap=config, headers=names)
        assert done.code == code, f"{value}: {done.message}"


def test_a_route_replaces_the_tree(programs, serve, client):
    server = servers.c_core_echo(programs)
    per_route = {"@type": _WRAPPING + "PerRoute", "xds_matcher": by_header({"five": run(abort(9))}, otherwise=SKIP)}
    table = routes("greeter", route("greeter") | {"typed_per_filter_config": {"named": per_route}})
    filters = [named(composite(by_header(FIVE_AND_SIX)))]
    config = serve(*service("greeter", server.address), listener("greeter", filters=filters), table)
    for value, code in {"five": "FAILED_PRECONDITION", "six": "OK"}.items():
        assert calls.call(programs, client, TARGET, bootstrap=config, headers={"x-for": value}).code == code


def test_a_share_of_the_calls_passes_the_filter(programs, serve, client):
    server = servers.c_core_echo(programs)
    sampled = run(abort(5), sample_percent={"default_value": percent(30)})
    filters = [named(composite(by_header({"none": SKIP}, otherwise=sampled)))]
    config = serve(*service("greeter", server.address), listener("greeter", filters=filters))
    options = {"count": 2_000, "concurrency": 16, **seeds.option(client)}
    done = calls.call(programs, client, TARGET, bootstrap=config, **options)
    # Four standard deviations.
    assert done.codes["NOT_FOUND"] == pytest.approx(600, abs=82)
