"""Policies of access at random, and calls that some of them are about; from a seed, and counted by field."""

from collections import Counter

_PATHS = ["/oracle.A/Get", "/oracle.A/Put", "/oracle.B/Get", "/oracle.B/Watch", "/oracle.B/get"]
_AUTHORITIES = ["a.test", "b.test", "b.test:80", "A.test"]
_HEADERS = {"x-a": ["", "1", "9", "-3", "1a", "abc", "ABC"], "x-b": ["abc", "abcd", "b", "x,y"]}
# Where callers are, and ranges some of which hold them.
SOURCES = ["127.0.0.1", "127.0.1.1", "127.1.2.3", "127.200.0.9"]
_RANGES = [("127.0.0.0", 8), ("127.0.0.0", 16), ("127.0.1.0", 24), ("127.1.2.3", 32), ("127.200.0.0", 13)]
_RANGES += [("10.0.0.0", 8), ("0.0.0.0", 0), ("::1", 128)]
# What they are about, and what of it more often.
_PERMISSIONS = ["any", "header", "header", "url_path", "url_path", "destination_ip", "destination_port"]
_PERMISSIONS += ["destination_port_range", "metadata", "requested_server_name"]
_PRINCIPALS = ["any", "authenticated", "authenticated", "authenticated", "source_ip", "direct_remote_ip", "remote_ip"]
_PRINCIPALS += ["header", "url_path", "metadata"]


class Policies:
    """Makes policies, without what is named in `unknown`."""

    def __init__(self, random, names, unknown=()):
        self.random = random
        self.unknown = unknown
        # Of callers.
        self.names = names
        self.fields = Counter()

    def rbac(self):
        """Rules with up to three policies."""
        action = self._of(["ALLOW", "ALLOW", "DENY"])
        self.fields[f"action {action}"] += 1
        policies = {str(n): self._policy() for n in range(self.random.choice([0, 1, 1, 1, 2, 3]))}
        return {"action": action, "policies": policies}

    def _policy(self):
        many = lambda make: [make(0) for _ in range(self.random.choice([1, 1, 2]))]
        return {"permissions": many(self._permission), "principals": many(self._principal)}

    def _permission(self, depth):
        return self._rule("permission", _PERMISSIONS, {"and_rules": "rules", "or_rules": "rules"}, "not_rule", depth)

    def _principal(self, depth):
        return self._rule("principal", _PRINCIPALS, {"and_ids": "ids", "or_ids": "ids"}, "not_id", depth)

    def _rule(self, kind, leaves, sets, negation, depth):
        again = self._permission if kind == "permission" else self._principal
        names = [*leaves, *([*sets, negation, negation] if depth < 2 else [])]
        name = self._of([name for name in names if name not in self.unknown])
        self.fields[f"{kind} {name}"] += 1
        if name in sets:
            return {name: {sets[name]: [again(depth + 1) for _ in range(self.random.choice([1, 2, 2, 3]))]}}
        return {name: again(depth + 1) if name == negation else getattr(self, f"_{name}")()}

    def _any(self):
        return True

    def _header(self):
        header = self._of(["x-a", "x-a", "x-b", ":path", ":method", ":authority", "host", "x-two", "x-absent"])
        self.fields[f"header {header}"] += 1
        kind = self._of(["string_match", "string_match", "string_match", "range_match", "present_match"])
        self.fields[f"header {kind}"] += 1
        if kind == "string_match":
            match = self._text(self._values(header))
        elif kind == "range_match":
            start = self._of([-5, 0, 1])
            match = {"start": str(start), "end": str(start + self._of([1, 2, 10]))}
        else:
            match = self._of([True, False])
        inverted = {"invert_match": True} if self.random.random() < 0.2 else {}
        self.fields["header invert_match"] += len(inverted)
        return {"name": header, kind: match, **inverted}

    def _values(self, header):
        fixed = {":path": _PATHS, ":method": ["POST", "GET"], ":authority": _AUTHORITIES, "host": _AUTHORITIES}
        return fixed.get(header) or _HEADERS.get(header) or ["1", "1,2", "2"]

    def _url_path(self):
        return {"path": self._text(_PATHS)}

    def _range(self):
        prefix, length = self._of(_RANGES)
        return {"address_prefix": prefix, "prefix_len": length}

    _destination_ip = _source_ip = _direct_remote_ip = _remote_ip = _range

    def _destination_port(self):
        return self._of([PORT, PORT, 1])

    def _destination_port_range(self):
        return {"start": 1, "end": self._of([PORT, AFTER_PORT, 65536])}

    def _metadata(self):
        inverted = {"invert": True} if self.random.random() < 0.3 else {}
        return {"filter": "x", "path": [{"key": "y"}], "value": {"present_match": True}, **inverted}

    def _requested_server_name(self):
        return self._text(["", "a.test"])

    def _authenticated(self):
        if self.random.random() < 0.15:
            self.fields["authenticated without a name"] += 1
            return {}
        return {"principal_name": self._text(self.names)}

    def _text(self, values):
        """A matcher of strings, about one of these values."""
        value, kind = self._of(values), self._of(["exact", "exact", "prefix", "suffix", "contains", "safe_regex"])
        self.fields[f"string {kind}"] += 1
        if kind == "safe_regex":
            return {"safe_regex": {"regex": self._regex(value)}}
        # No part may be empty.
        kind, part = self._part(kind, value) if value else ("exact", "")
        folded = {"ignore_case": True} if self.random.random() < 0.25 else {}
        self.fields["string ignore_case"] += len(folded)
        return {kind: part.swapcase() if folded else part, **folded}

    def _part(self, kind, value):
        at = self.random.randrange(len(value))
        parts = {"exact": value, "prefix": value[: at + 1], "suffix": value[at:], "contains": value[at : at + 3]}
        return kind, parts[kind]

    def _regex(self, value):
        escaped = ["\\" + letter if letter in ".*+?()[]" else letter for letter in value]
        half = "".join(escaped[: len(escaped) // 2])
        return self._of(["".join(escaped) or "()", f"{half}.*", ".+", ".*", "[a-z/:.]*", "(1|abc)+"])

    def _of(self, values):
        return self.random.choice(values)

    def call(self, number):
        """A call that the policy of this number decides: path, authority, headers."""
        headers = [(name, self._of(values)) for name, values in _HEADERS.items() if self.random.random() < 0.7]
        if self.random.random() < 0.3:
            headers += [("x-two", "1"), ("x-two", "2")]
        return self._of(_PATHS), self._of(_AUTHORITIES), [*headers, ("x-policy", str(number))]


# In the place of the port where a server listens, which is another for each.
PORT, AFTER_PORT = "port", "after port"


def at_port(value, port):
    """The policy for a server that listens there."""
    if isinstance(value, dict):
        return {key: at_port(each, port) for key, each in value.items()}
    if isinstance(value, list):
        return [at_port(each, port) for each in value]
    return {PORT: port, AFTER_PORT: port + 1}.get(value, value) if isinstance(value, str) else value
