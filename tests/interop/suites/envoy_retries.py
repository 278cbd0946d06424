"""Retries: which answers are retried on which conditions, by our client, by Envoy and by gRPC C-core's client."""

import pytest

from support import calls
from support.ads import AdsServer
from support.envoy import Envoy, fixed_cluster, plain
from support.scripted import Scripted, close, goaway, late_status, message, reset, silence, status, trailers_only
from support.xds import HTTP2, bootstrap, cluster, endpoints, listener, route, routes, socket_listener

TARGET = "xds:///table"

# Conditions to which gRPC gives a meaning, which is the one that holds (A44).
OF_GRPC = ("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable")
OF_ENVOY = (
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
)
ANSWERS = {
    "OK": message(),
    "OK with the header": message(x_retry="yes"),
    "OK with another header": message(x_retry="no"),
    **{f"HTTP {code}": status(code) for code in (400, 401, 403, 404, 409, 418, 429, 500, 501, 502, 503, 504, 505)},
    "HTTP 503 with the header": status(503, x_retry="yes"),
    "HTTP 429 ratelimited": status(429, x_envoy_ratelimited="true"),
    "HTTP 503 ratelimited": status(503, x_envoy_ratelimited="true"),
    **{f"status {code}": trailers_only(code) for code in (1, 2, 4, 5, 8, 13, 14)},
    **{f"late status {code}": late_status(code) for code in (1, 4, 8, 13, 14)},
    "status 14 after a message": message(14),
    **{f"reset {code}": reset(code) for code in ("CANCEL", "INTERNAL_ERROR", "NO_ERROR", "ENHANCE_YOUR_CALM")},
    "refused": reset("REFUSED_STREAM"),
    "reset after headers": reset("INTERNAL_ERROR", after_headers=True),
    "refused after headers": reset("REFUSED_STREAM", after_headers=True),
    "closed": close,
    "GOAWAY with this stream": goaway(),
    "GOAWAY without this stream": goaway(0),
    "silence": silence,
}
TABLE = [(condition, answer) for condition in (*OF_GRPC, *OF_ENVOY) for answer in ANSWERS]


def policy(condition):
    return {
        "retry_on": condition,
        "num_retries": 1,
        "per_try_timeout": "1s",
        "retriable_status_codes": [418, 429],
        "retriable_headers": [{"name": "x-retry", "string_match": {"exact": "yes"}}],
    }


def row_routes():
    """A route and a cluster for each row, so that no row leaves another a closed connection or a spent budget."""
    entries = []
    for row, (condition, _) in enumerate(TABLE):
        entry = route(f"row-{row}", prefix="/", headers=[{"name": "x-row", "string_match": {"exact": str(row)}}])
        entry["route"] |= {"retry_policy": policy(condition)}
        entries.append(entry)
    return routes("table", *entries)


def by_xds(programs, folder, client, backend):
    """Makes the calls of all rows with a client that is configured by ADS."""
    clusters = [cluster(f"row-{row}", typed_extension_protocol_options=HTTP2) for row in range(len(TABLE))]
    sets = [endpoints(f"row-{row}", *backend.addresses) for row in range(len(TABLE))]
    server = AdsServer(listener("table"), row_routes(), *clusters, *sets).start()
    try:
        return made(programs, client, TARGET, client.name, bootstrap=bootstrap(folder, server.address))
    finally:
        server.stop()


def by_envoy(programs, backend):
    clusters = [fixed_cluster(f"row-{row}", *backend.addresses) for row in range(len(TABLE))]
    inbound = plain(socket_listener("in", codec_type="HTTP2", route_config=plain(row_routes())))
    envoy = Envoy(programs, {"static_resources": {"listeners": [inbound], "clusters": clusters}})
    return made(programs, calls.c_core(), f"static:///{envoy.listener('in')}", "envoy")


def made(programs, client, target, side, **options):
    headers = {"x-row": "{n}", "x-side": side}
    done = calls.call(
        programs, client, target, count=len(TABLE), concurrency=16, deadline="6s", each=True, headers=headers, **options
    )
    return {each["n"]: each["code"] for each in done.each}


@pytest.fixture(scope="module")
def attempts(module_programs, tmp_path_factory):
    """How many attempts the backend counted, by side and row."""
    backend = Scripted([ANSWERS[answer] for _, answer in TABLE], ports=2)
    folder = tmp_path_factory.mktemp("bootstrap")
    for client in (calls.mesh(), calls.c_core()):
        by_xds(module_programs, folder, client, backend)
    by_envoy(module_programs, backend)
    backend.stop()
    return backend.taken


# The endpoint says that it did nothing with the request. It is sent elsewhere once, whatever the policy says (A6); Envoy
# does not do that, and C-core only for a GOAWAY.
UNPROCESSED = ("refused", "GOAWAY without this stream")


def expected(attempts, row):
    """The attempts that our client is to make: those of the oracle, with the exceptions that have a reason."""
    condition, answer = TABLE[row]
    if condition in OF_GRPC:
        if (condition, answer) == ("deadline-exceeded", "silence"):
            return 2  # the time of an attempt is Envoy's word, which C-core ignores; with it an attempt ends so
        return attempts["c-core", row] + (answer == "refused")
    if answer in UNPROCESSED:
        # For Envoy only `refused-stream` and `reset` are words for it. To repeat it is as safe for these.
        safe = condition in ("connect-failure", "reset-before-request")
        return attempts["envoy", row] + 1 + safe
    return attempts["envoy", row]


@pytest.mark.parametrize("row", range(len(TABLE)), ids=[f"{condition}: {answer}" for condition, answer in TABLE])
def test_row(attempts, row):
    sides = {side: attempts[side, row] for side in ("mesh", "c-core", "envoy")}
    assert sides["mesh"] == expected(attempts, row), sides
