"""istiod as a test starts it: its configuration is a folder of Istio's resources."""

import os
import socket
import urllib.request

import yaml

from support import places, xds
from support.wait import until

DOMAIN = "default.svc.cluster.local"
_MESH = {"trustDomain": "cluster.local", "rootNamespace": "istio-system", "defaultConfig": {"discoveryAddress": "x:0"}}


class Istiod:
    """An istiod without certificates, on plaintext ports that were free."""

    def __init__(self, programs, *resources):
        self.folder = programs.folder / "istio"
        self.folder.mkdir()
        self.put(*resources)
        mesh = programs.folder / "mesh.yaml"
        mesh.write_text(yaml.safe_dump(_MESH))
        grpc, http, monitoring = free_ports(3)
        self.address = f"127.0.0.1:{grpc}"
        self.http = f"http://127.0.0.1:{http}"
        argv = [places.istiod(), "discovery", "--configDir", self.folder, "--meshConfig", mesh, "--httpsAddr="]
        argv += ["--grpcAddr", self.address, "--secureGRPCAddr=", "--httpAddr", f"127.0.0.1:{http}", "--ctrlz_port", 0]
        argv += ["--monitoringAddr", f"127.0.0.1:{monitoring}"]
        env = {"ENABLE_CA_SERVER": "false", "POD_NAMESPACE": "istio-system", "PILOT_DEBOUNCE_AFTER": "1ms"}
        self.program = programs.start("istiod", argv, env)
        until(lambda: not self.program.running() or self._ready(), 60, "istiod to be ready")
        assert self.program.running(), self.program.tail()

    def put(self, *resources):
        """Adds or replaces resources; one that is bad would keep all changes out."""
        for resource in resources:
            new = self.folder.parent / "next.yaml"
            new.write_text(yaml.safe_dump(resource))
            os.replace(new, self.folder / f"{resource['kind']}-{resource['metadata']['name']}.yaml")

    def bootstrap(self):
        """A gRPC bootstrap that names a workload, as istiod asks for it."""
        node = {
            "id": f"sidecar~127.0.0.1~client.default~{DOMAIN}",
            "metadata": {"GENERATOR": "grpc", "NAMESPACE": "default"},
        }
        return xds.bootstrap(self.folder.parent, self.address, node)

    def _ready(self):
        try:
            with urllib.request.urlopen(f"{self.http}/ready", timeout=1) as reply:
                return reply.status == 200
        except OSError:
            return False


def free_ports(number):
    """Ports that were free a moment ago: istiod does not say which ones it was given."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def resource(kind, name, **spec):
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}


def service(name, **versions):
    """A service at port 7070, and which endpoints have which version: `service("echo", v1=["127.0.0.2:80"])`."""
    members = [
        {
            "address": address.rsplit(":", 1)[0],
            "ports": {"grpc": int(address.rsplit(":", 1)[1])},
            "labels": {"version": version},
        }
        for version, addresses in versions.items()
        for address in addresses
    ]
    ports = [{"number": 7070, "name": "grpc", "protocol": "GRPC"}]
    more = {"location": "MESH_INTERNAL", "resolution": "STATIC", "addresses": ["240.0.0.1"]}
    return resource("ServiceEntry", name, hosts=[host(name)], ports=ports, endpoints=members, **more)


def host(name):
    return f"{name}.{DOMAIN}"


def virtual_service(name, *routes):
    return resource("VirtualService", name, hosts=[host(name)], http=list(routes))


def destination_rule(name, *subsets, **policy):
    versions = [{"name": subset, "labels": {"version": subset}} for subset in subsets]
    traffic = {"trafficPolicy": policy} if policy else {}
    return resource("DestinationRule", name, host=host(name), subsets=versions, **traffic)


def to(name, **subsets):
    """Where a route leads, with weights if there are several: `to("echo", v1=80, v2=20)`."""
    return [
        {"destination": {"host": host(name), "subset": subset}, "weight": weight} for subset, weight in subsets.items()
    ]
