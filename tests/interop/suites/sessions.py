"""Sessions (A55): the calls of one stay at its endpoint, by the cookies of gRPC C-core and by the headers of Envoy."""

import pytest

from support import calls, servers, xds
from support.envoy import proxy
from support.xds import cluster, endpoints, listener, route, routes

TARGET = "xds:///table"
# So many calls do not go to one of four endpoints by chance.
CALLS = 30
_FILTER = xds.GOOGLE + "envoy.extensions.filters.http.stateful_session.v3.StatefulSession"
_COOKIE = xds.GOOGLE + "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState"
_HEADER = xds.GOOGLE + "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState"


def kept_in(kind, where, **state):
    # Envoy finds it by its name.
    state = {"name": f"envoy.http.stateful_session.{where}", "typed_config": {"@type": kind, **state}}
    return {"name": "session", "typed_config": {"@type": _FILTER, "session_state": state}}


def by_cookie(**cookie):
    return kept_in(_COOKIE, "cookie", cookie={"name": "session", **cookie})


BY_HEADER = kept_in(_HEADER, "header", name="x-session")


@pytest.fixture
def backends(programs):
    return [servers.c_core_echo(programs).address for _ in range(4)]


@pytest.fixture
def serve_sessions(serve, backends):
    """Serves the backends to clients that keep sessions so."""

    def start(kept):
        table = routes("table", route("one"))
        return serve(listener("table", filters=[kept]), table, cluster("one"), endpoints("one", *backends))

    return start


def each(programs, client, target, shown, number=CALLS, headers=(), **more):
    """Who answered each call, and what its answer has of a header."""
    options = {"count": number, "each": True, "show": shown, "headers": headers, **more}
    done = calls.call(programs, client, target, **options)
    assert done.codes == {"OK": number}
    return [(line["endpoint"], line["headers"][shown]) for line in done.each]


def spread(programs, client, target, shown, **more):
    """The session of each endpoint, of calls that had none: they go to all."""
    return {endpoint: told[0] for endpoint, told in each(programs, client, target, shown, **more)}


class Cookies:
    """What a client does by the control plane's configuration, and with which cookies."""

    def __init__(self, programs, client, config):
        self.programs, self.client, self.config = programs, client, config

    def each(self, **options):
        return each(self.programs, self.client, TARGET, "set-cookie", bootstrap=self.config, **options)

    def begun(self):
        return spread(self.programs, self.client, TARGET, "set-cookie", bootstrap=self.config)

    def with_cookie(self, cookie, **options):
        return self.each(headers={"cookie": cookie}, **options)


@pytest.fixture
def cookies(programs, serve_sessions):
    def start(**cookie):
        config = serve_sessions(by_cookie(**cookie))
        return [Cookies(programs, client(), config) for client in (calls.mesh, calls.c_core)]

    return start


def test_a_session_of_either_client_is_one_for_both(cookies, backends):
    sides = cookies()
    for begins in sides:
        begun = begins.begun()
        assert set(begun) == set(backends)
        for at, cookie in begun.items():
            pair = cookie.split(";")[0]
            for goes_on in sides:
                assert goes_on.with_cookie(f"other=1; {pair}") == [(at, [])] * CALLS, f"{goes_on.client}: {cookie}"


def test_both_set_the_same_cookies(cookies):
    ours, theirs = cookies(ttl="100s", path="/interop.Echo")
    alike = lambda begun: {at: sorted(part.strip() for part in cookie.split(";")) for at, cookie in begun.items()}
    assert alike(ours.begun()) == alike(theirs.begun())


def test_calls_of_other_paths_have_no_session(cookies, backends):
    ours, theirs = cookies(path="/other")
    for side in (ours, theirs):
        assert {at for at, told in side.each() if not told} == set(backends)


@pytest.mark.parametrize("value", ["bm93aGVyZQ==", "MTI3LjAuMC4xOjE7b25l", "%%%", ""])
def test_a_session_that_is_nowhere_begins_anew(cookies, backends, value):
    for side in cookies():
        answers = side.with_cookie(f"session={value}")
        assert {at for at, told in answers} == set(backends), side.client
        assert all(len(told) == 1 for _, told in answers), side.client


def test_a_session_of_envoys_is_one_for_us_and_ours_for_it(programs, serve_sessions, backends):
    config = serve_sessions(BY_HEADER)
    one = (cluster("one"), endpoints("one", *backends))
    envoy = proxy(programs, routes("table", route("one")), one, filters=[BY_HEADER])
    # C-core's client tells who answered behind Envoy.
    through = f"static:///{envoy.listener('in')}"
    sides = [(calls.mesh(), TARGET, {"bootstrap": config}), (calls.c_core(), through, {})]
    begun = [spread(programs, client, target, "x-session", **more) for client, target, more in sides]
    assert begun[0] == begun[1]
    assert set(begun[0]) == set(backends)
    for at, session in begun[0].items():
        for client, target, more in sides:
            answers = each(programs, client, target, "x-session", headers={"x-session": session}, **more)
            assert {place for place, _ in answers} == {at}, client


@pytest.mark.parametrize("value", ["bm93aGVyZQ==", "%%%"])
def test_a_header_of_nonsense_is_no_session(programs, serve_sessions, backends, value):
    config = serve_sessions(BY_HEADER)
    answers = each(programs, calls.mesh(), TARGET, "x-session", headers={"x-session": value}, bootstrap=config)
    assert {at for at, _ in answers} == set(backends)
