"""Tokens of callers, good and bad, at random: our server takes those that Envoy takes. INTEROP_SEED repeats a run."""

import json
import random
import time
from collections import Counter

import pytest

from support import seeds, servers
from support.ads import AdsServer
from support.envoy import Envoy, plain
from support.http2 import Connection
from support.secured import server_listener
from support.tokens import Key, token
from support.wait import until
from support.xds import GOOGLE, address, bootstrap, manager, routes

TOKENS = 1500
A, B = "https://a.test", "https://b.test"
_JWT = GOOGLE + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_UNAUTHENTICATED, _DENIED = "16", "7"
_DIFFERENT = "different"


@pytest.fixture(scope="module")
def keys():
    kinds = {"rsa": "RSA", "p256": "P-256", "p384": "P-384", "ed": "Ed25519"}
    return {name: Key(kind, name) for name, kind in kinds.items()} | {"stranger": Key("RSA", "rsa")}


def _provider(issuer, *jwks, **more):
    return {"issuer": issuer, "local_jwks": {"inline_string": json.dumps({"keys": list(jwks)})}, **more}


def _requirements():
    """By the service that is called."""
    named = lambda name: {"provider_name": name}
    any_of = lambda *several: {"requires_any": {"requirements": list(several)}}
    all_of = lambda *several: {"requires_all": {"requirements": list(several)}}
    return {
        "A": named("a"),
        "B": named("b"),
        "Audience": {"provider_and_audiences": {"provider_name": "a", "audiences": ["two"]}},
        "Any": any_of(named("a"), named("b")),
        "All": all_of(named("a"), named("b")),
        "Missing": any_of(named("a"), {"allow_missing": {}}),
        "Failed": any_of(named("a"), {"allow_missing_or_failed": {}}),
        "Open": None,
    }


def _filter(keys):
    a = _provider(A, keys["rsa"].jwk(alg="RS256"), keys["p256"].jwk(), audiences=["one", "two"])
    b = _provider(B, keys["p384"].jwk(), keys["ed"].jwk(), require_expiration=True, subjects={"prefix": "user-"})
    rules = [
        {"match": {"prefix": f"/t.{service}/"}, **({"requires": requirement} if requirement else {})}
        for service, requirement in _requirements().items()
    ]
    return {"name": "jwt", "typed_config": {"@type": _JWT, "providers": {"a": a, "b": b}, "rules": rules}}


class Tokens:
    """Makes calls: most of a token is as it should be."""

    def __init__(self, chance, keys):
        self.chance = chance
        self.keys = keys
        self.fields = Counter()
        # Of each call: whether the token says another key or algorithm than it is signed by.
        self.odd = []

    def _of(self, field, good, *bad):
        """The good value more often than all others together."""
        value = good if self.chance.random() < 0.85 else self.chance.choice(bad)
        if value != good:
            self.fields[field] += 1
        return value

    def call(self):
        """Path, authority, headers."""
        path = f"/t.{self.chance.choice(list(_requirements()))}/Call"
        made = self.token()
        place = self._of("place", "header", "query", "none", "no scheme")
        headers = {"header": f"Bearer {made}", "no scheme": made}
        if place == "query":
            path += f"?access_token={made}"
        return path, "t.test", [("authorization", headers[place])] if place in headers else []

    def token(self):
        issuer = self.chance.choice([A, B])
        good = {A: [("rsa", "RS256"), ("p256", "ES256")], B: [("p384", "ES384"), ("ed", "EdDSA")]}[issuer]
        name, alg = self.chance.choice(good)
        name = self._of("key", name, "stranger", "p256", "p384", "ed", "rsa")
        alg = self._of("alg", alg, "none", "HS256", "RS512", "PS256", "ES256", "RS256")
        kid = self._of("kid", self.keys[name].kid, None, "unknown", "p256")
        self.odd.append((name, alg) not in good or kid != self.keys[name].kid)
        return self._broken(token(self.keys[name], alg, self._claims(issuer), kid=kid))

    def _claims(self, issuer):
        now = int(time.time())
        claims = {
            "iss": self._of("iss", issuer, None, A, B, "https://c.test", 7),
            "sub": self._of("sub", "user-1", None, "service-1", ["user-1"]),
            "aud": self._of("aud", ["one"], "one", "two", ["three", "two"], None, "three", [], 7),
            "exp": self._of("exp", now + 3600, now - 3600, None, "soon", now + 3600.5, -1),
            "nbf": self._of("nbf", now - 10, now + 3600, None, "later"),
        }
        return {name: value for name, value in claims.items() if value is not None}

    def _broken(self, made):
        how = self._of(
            "form", "whole", "no signature", "two parts", "four parts", "other claims", "no token", "not base64"
        )
        head, body, signature = made.split(".")
        return {
            "whole": made,
            "no signature": f"{head}.{body}.",
            "two parts": f"{head}.{body}",
            "four parts": f"{made}.{signature}",
            "other claims": f"{head}.{body[:-4]}AAAA.{signature}",
            "no token": "token",
            "not base64": f"{head}.{body}.***",
        }[how]


def _envoy(programs, keys):
    table = plain(routes("all", {"match": {"prefix": "/"}, "direct_response": {"status": 200}}))
    http = manager(_filter(keys), codec_type="HTTP2", route_config=table)
    at = servers.free_address()
    chain = {"filters": [{"name": "http", "typed_config": http}]}
    listener = {"name": "in", "address": address(at), "filter_chains": [chain]}
    Envoy(programs, {"static_resources": {"listeners": [listener]}})
    return at


class Mesh:
    """Our server, with the same filter from its control plane."""

    def __init__(self, programs, keys):
        self.at = servers.free_address()
        self.control = AdsServer(server_listener(self.at, _filter(keys))).start()
        servers.by_listener(programs, "mesh", self.at, bootstrap(programs.folder, self.control.address))
        until(lambda: self.control.nacks() or self._serves(), 30, "our server to serve")
        assert not self.control.nacks()

    def _serves(self):
        try:
            return _codes(self.at, [("/t.A/Call", "t.test", [])]) == [_UNAUTHENTICATED]
        except OSError:
            return False


def _codes(at, asked):
    connection = Connection(at)
    try:
        return connection.statuses(asked)
    finally:
        connection.close()


def _said(theirs, ours, is_odd):
    """What of both verdicts; a call that is taken has no such method with ours, and any other code with Envoy."""
    takes = [status not in (_UNAUTHENTICATED, _DENIED) for status in (theirs, ours)]
    if takes[0] == takes[1]:
        return "taken" if takes[0] else "refused"
    # Envoy goes by the key alone where the token says another, or another algorithm.
    return "refused by ours alone, as it is meant" if is_odd and takes[0] else _DIFFERENT


def test_verdicts(programs, keys, capsys):
    seed = seeds.chosen()
    tokens = Tokens(random.Random(seed), keys)
    asked = [tokens.call() for _ in range(TOKENS)]
    envoy, mesh = _envoy(programs, keys), Mesh(programs, keys)
    try:
        theirs, ours = _codes(envoy, asked), _codes(mesh.at, asked)
    finally:
        mesh.control.stop()
    said = [_said(*each) for each in zip(theirs, ours, tokens.odd, strict=True)]
    counted = Counter(said)
    with capsys.disabled():
        print(f"\nseed {seed}: {json.dumps(counted)}; what was bad: {json.dumps(tokens.fields)}")
    different = [asked[at] for at, each in enumerate(said) if each == _DIFFERENT]
    for each in different[:10]:
        print(json.dumps(each))
    assert counted["taken"] >= 200 and counted["refused"] >= 200 and not different
