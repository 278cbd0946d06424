"""Envoy as a test starts and asks it."""

import json
import urllib.request

from support import places, xds
from support.wait import until

_ADMIN = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}


class Envoy:
    """An Envoy with its admin server at a port that the system chose."""

    def __init__(self, programs, config, *flags):
        """Starts one with this bootstrap; it is ready when its listeners are."""
        number = sum(1 for program in programs.started if program.name.startswith("envoy"))
        file = programs.folder / f"envoy-{number}.json"
        admin = programs.folder / f"envoy-{number}.admin"
        file.write_text(json.dumps({"admin": _ADMIN, **config}))
        fixed = ["--concurrency", 1, "--disable-hot-restart", "--log-level", "warning", "--admin-address-path", admin]
        self.program = programs.start("envoy", [places.envoy(), "-c", file, *fixed, *flags])
        until(lambda: not self.program.running() or admin.exists() and admin.read_text(), 20, "Envoy's admin address")
        assert self.program.running(), self.program.tail()
        self.admin_address = admin.read_text()
        until(self._ready, 30, "Envoy to be ready")

    def admin(self, path, method="GET"):
        request = urllib.request.Request(f"http://{self.admin_address}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.read().decode()

    def listener(self, name):
        """The address of one of its listeners, or nothing."""
        listeners = json.loads(self.admin("/listeners?format=json")).get("listener_statuses", [])
        for listener in listeners:
            if listener["name"] == name:
                at = listener["local_address"]["socket_address"]
                return f"{at['address']}:{at['port_value']}"
        return None

    def config(self):
        """The configuration dump as text."""
        return self.admin("/config_dump?include_eds")

    def counter(self, name):
        """A counter or gauge by its full name."""
        lines = dict(line.split(": ") for line in self.admin(f"/stats?filter=^{name}$").splitlines())
        return int(lines.get(name, 0))

    def requests(self):
        """How many requests each endpoint had, by address."""
        taken = {}
        for line in self.admin("/clusters").splitlines():
            words = line.split("::")
            if len(words) == 4 and words[2] == "rq_total":
                taken[words[1]] = taken.get(words[1], 0) + int(words[3])
        return taken

    def _ready(self):
        try:
            return self.admin("/ready") == "LIVE\n"
        except OSError:
            return False


def http2_cluster(name, **more):
    return {"name": name, "typed_extension_protocol_options": xds.HTTP2, **more}


def fixed_cluster(name, *addresses):
    """A cluster with these endpoints, for a bootstrap."""
    return http2_cluster(name, type="STATIC", load_assignment=plain(xds.endpoints(name, *addresses)))


def proxy(programs, table, *sets, filters=(), **more):
    """An Envoy that is configured as a client by xDS would be; each set is a cluster and its assignment."""
    inbound = plain(xds.socket_listener("in", filters, codec_type="HTTP2", route_config=plain(table)))
    clusters = [_with_endpoints(cluster, assignment) for cluster, assignment in sets]
    return Envoy(programs, {"static_resources": {"listeners": [inbound], "clusters": clusters}, **more})


def _with_endpoints(cluster, assignment):
    fields = {key: value for key, value in plain(cluster).items() if key != "eds_cluster_config"}
    return http2_cluster(**fields | {"type": "STATIC", "load_assignment": plain(assignment)})


def plain(resource):
    """The resource where its type is known from its place."""
    return {key: value for key, value in resource.items() if key != "@type"}
