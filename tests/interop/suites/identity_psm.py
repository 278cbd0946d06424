"""The `security` and `authz` cases of gRPC's service mesh tests, by name: ours and C-core, as client and as server."""

import itertools

import grpc
import grpc.experimental
import pytest

from support.secured import MTLS, PLAINTEXT, TLS, rbac, upstream
from support.site import CLIENT, METHOD, NAME, SERVER, WHO_AM_I, username
from support.wait import until

KINDS = ("mesh", "c-core")
PAIRS = list(itertools.product(KINDS, KINDS))


# --- security_test.py


@pytest.mark.parametrize("client,server", PAIRS)
def test_mtls(client, server, site):
    site.serve(server, security=MTLS)
    done = site.call(client, upstream(MTLS, SERVER))
    assert (done.code, username(done.reply)) == ("OK", CLIENT), done
    assert site.call(client, upstream(MTLS, SERVER), count=20, concurrency=4).codes == {"OK": 20}


@pytest.mark.parametrize("client,server", PAIRS)
def test_tls(client, server, site):
    site.serve(server, security=TLS)
    done = site.call(client, upstream(TLS, SERVER))
    assert (done.code, username(done.reply)) == ("OK", ""), done


@pytest.mark.parametrize("client,server", PAIRS)
def test_plaintext_fallback(client, server, site):
    site.serve(server, security=PLAINTEXT)
    done = site.call(client, None)
    assert (done.code, username(done.reply)) == ("OK", ""), done


@pytest.mark.parametrize("client,server", PAIRS)
def test_mtls_error(client, server, site):
    """The server wants a certificate, and the client's cluster has TLS without one."""
    site.serve(server, security=MTLS)
    done = site.call(client, upstream(TLS, SERVER), count=5, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 5}, done
    assert site.call(client, upstream(MTLS, SERVER)).code == "OK"


@pytest.mark.parametrize("client,server", PAIRS)
def test_server_authz_error(client, server, site):
    """The server has another name than the cluster says."""
    site.serve(server, security=TLS)
    done = site.call(client, upstream(TLS, "spiffe://mesh.test/ns/other/sa/server"), count=5, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 5}, done
    assert site.call(client, upstream(TLS, SERVER)).code == "OK"


# --- authz_test.py


def _regex(text):
    return {"safe_regex": {"regex": text}}


def _rule(test, hosts=("*:8000",), port=None, sources=()):
    """A rule as the control plane of those tests makes a policy of it: hosts, port, the header `test`, principals."""
    hosts = [{"suffix": host[1:]} if host.startswith("*") else {"exact": host} for host in hosts]
    authorities = [{"header": {"name": ":authority", "string_match": {**host, "ignore_case": True}}} for host in hosts]
    permissions = [{"or_rules": {"rules": authorities}}, {"header": {"name": "test", "string_match": _regex(test)}}]
    if port:
        permissions.append({"destination_port": port})
    # Any name, which is more than TLS alone.
    names = [_regex(".+") if source == "*" else {"exact": source} for source in sources]
    principals = [{"authenticated": {"principal_name": name}} for name in names] or [{"any": True}]
    return {"permissions": [{"and_rules": {"rules": permissions}}], "principals": principals}


_HOST = f"{NAME}:8000"
_OTHER = "spiffe://mesh.test/not/the/client"


def rules(port):
    """The rules of those tests, for a server at this port."""
    listed = [
        _rule("host-wildcard", port=port),
        _rule("header-regex-a+", port=port),
        _rule("host-match1", [_HOST], port),
        _rule("host-match2", ["a-not-it.com:8000", _HOST, "z-not-it.com:1"], port),
        _rule("never-match-host", ["not-the-host:8000", "not-the-host"], port),
        _rule("never-match-port", port=1),
        _rule("principal-present", port=port, sources=["*"]),
        _rule("match-principal", port=port, sources=[_OTHER, CLIENT]),
        _rule("never-match-principal", port=port, sources=[_OTHER]),
    ]
    return {str(number): rule for number, rule in enumerate(listed)}


OK, DENIED = "OK", "PERMISSION_DENIED"
# What the header `test` is, and what becomes of the call.
PLAINTEXT_ALLOW = {
    "host-wildcard": OK,
    "no-such-rule": DENIED,
    None: DENIED,
    "header-regex-a": OK,
    "header-regex-aa": OK,
    "header-regex-": DENIED,
    "header-regex-ab": DENIED,
    "aheader-regex-a": DENIED,
    "host-match1": OK,
    "host-match2": OK,
    "never-match-host": DENIED,
    "never-match-port": DENIED,
    "principal-present": DENIED,
}
AUTHZ = {
    "plaintext_allow": (PLAINTEXT, "ALLOW", PLAINTEXT_ALLOW),
    "tls_allow": (TLS, "ALLOW", {"host-wildcard": OK, None: DENIED, "principal-present": DENIED}),
    "mtls_allow": (
        MTLS,
        "ALLOW",
        {
            "host-wildcard": OK,
            None: DENIED,
            "principal-present": OK,
            "match-principal": OK,
            "never-match-principal": DENIED,
        },
    ),
    "plaintext_deny": (PLAINTEXT, "DENY", {"host-wildcard": DENIED, None: OK}),
}


@pytest.fixture
def direct(site):
    """Calls the server without a control plane, as gRPC C-core does, with the authority that the rules are about."""
    opened = []

    def open(security):
        certificate, key, roots = site.client.pem()
        own = (key, certificate) if security == MTLS else (None, None)
        credentials = grpc.ssl_channel_credentials(roots, *own)
        if security == PLAINTEXT:
            credentials = grpc.experimental.insecure_channel_credentials()
        opened.append(grpc.secure_channel(site.at, credentials, [("grpc.default_authority", _HOST)]))
        return opened[-1].unary_unary(METHOD)

    yield open
    for channel in opened:
        channel.close()


def _verdict(call, test):
    try:
        call(WHO_AM_I, timeout=10, metadata=[("test", test)] if test else [])
        return OK
    except grpc.RpcError as error:
        return error.code().name


@pytest.mark.parametrize("server", KINDS)
@pytest.mark.parametrize("case", AUTHZ)
def test_authz(case, server, site, direct):
    security, action, expected = AUTHZ[case]
    site.serve(server, security=security)
    site.listen(rbac(action, rules(int(site.at.rsplit(":", 1)[1]))), security=security)
    call = direct(security)
    # The listener that the server had first denies nothing.
    denied = next(test for test, verdict in expected.items() if verdict == DENIED)
    until(lambda: _verdict(call, denied) == DENIED, 20, "the rules in force")
    assert {test: _verdict(call, test) for test in expected} == expected


@pytest.mark.parametrize("client,server", PAIRS)
def test_authz_of_a_client_by_xds(client, server, site):
    """The principal that a rule is about is the one that the client's provider of certificates gave it."""
    policies = {"0": _rule("match-principal", hosts=["svc"], sources=[CLIENT])}
    site.serve(server, rbac("ALLOW", policies), security=MTLS)
    call = lambda test: site.call(client, upstream(MTLS, SERVER), headers={"test": test}).code
    assert (call("match-principal"), call("another")) == (OK, DENIED)
