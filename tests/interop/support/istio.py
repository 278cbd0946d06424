"""istiod as a test starts it: its configuration is a folder of Istio's resources."""

import os
import re
import socket
import urllib.request

import yaml

from support import places, xds
from support.certificates import Authority
from support.wait import until

DOMAIN = "default.svc.cluster.local"
_MESH = {"trustDomain": "cluster.local", "rootNamespace": "istio-system", "defaultConfig": {"discoveryAddress": "x:0"}}


class Istiod:
    """An istiod on ports that were free: in plaintext and without a CA, or, `secure`, over TLS alone and with its CA."""

    def __init__(self, programs, *resources, secure=False, more=()):
        self.programs = programs
        self.folder = programs.folder / "istio"
        self.folder.mkdir()
        self.put(*resources)
        mesh = programs.folder / "mesh.yaml"
        mesh.write_text(yaml.safe_dump(_MESH))
        self.port, http, monitoring = free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self.http = f"http://127.0.0.1:{http}"
        self.monitoring = f"http://127.0.0.1:{monitoring}"
        self.ca = programs.folder / "ca"
        own, other = ("--secureGRPCAddr", "--grpcAddr") if secure else ("--grpcAddr", "--secureGRPCAddr")
        self.argv = [places.istiod(), "discovery", "--configDir", self.folder, "--meshConfig", mesh, "--httpsAddr="]
        self.argv += [own, self.address, f"{other}=", "--httpAddr", f"127.0.0.1:{http}", "--ctrlz_port", 0]
        self.argv += ["--monitoringAddr", f"127.0.0.1:{monitoring}", *more]
        self.env = {"ENABLE_CA_SERVER": "false", "POD_NAMESPACE": "istio-system", "PILOT_DEBOUNCE_AFTER": "1ms"}
        if secure:
            self.ca.mkdir()
            self.put_authority("first")
            self.env |= {"ENABLE_CA_SERVER": "true", "ROOT_CA_DIR": str(self.ca)}
        self.start()

    def start(self):
        """Starts it, at the ports that it had before if it ran already."""
        self.program = self.programs.start("istiod", self.argv, self.env)
        until(lambda: not self.program.running() or self._ready(), 60, "istiod to be ready")
        assert self.program.running(), self.program.tail()

    def put_authority(self, name):
        """Gives its CA a new root, as operators do (Secret `cacerts`), for its next start; and the root in PEM."""
        authority = Authority(self.ca, name)
        root = authority.roots.read_bytes()
        for file in ("root-cert.pem", "cert-chain.pem", "ca-cert.pem"):
            (self.ca / file).write_bytes(root)
        (self.ca / "ca-key.pem").write_bytes(authority.key_pem())
        return root

    def root(self):
        return (self.ca / "root-cert.pem").read_bytes()

    def put(self, *resources):
        """Adds or replaces resources; one that is bad would keep all changes out."""
        for resource in resources:
            new = self.folder.parent / "next.yaml"
            new.write_text(yaml.safe_dump(resource))
            os.replace(new, self._file(resource))

    def remove(self, resource):
        self._file(resource).unlink()

    def count(self, metric):
        """What istiod itself counted, since it started: of all label values together."""
        with urllib.request.urlopen(f"{self.monitoring}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        return sum(float(value) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def certificates(self):
        """How many its CA issued."""
        return self.count("citadel_server_success_cert_issuance_count")

    def _file(self, resource):
        meta = resource["metadata"]
        return self.folder / f"{resource['kind']}-{meta['namespace']}-{meta['name']}.yaml"

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


def resource(kind, name, group="networking", **spec):
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": f"{group}.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}


def service(name, account="default", **versions):
    """A service at port 7070, and which endpoints have which version: `service("echo", v1=["127.0.0.2:80"])`."""
    members = [
        {
            "address": address.rsplit(":", 1)[0],
            "ports": {"grpc": int(address.rsplit(":", 1)[1])},
            "labels": {"version": version},
            "serviceAccount": account,
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


def mutual_tls(name):
    """A DestinationRule by which clients show a certificate of Istio's CA."""
    return destination_rule(name, tls={"mode": "ISTIO_MUTUAL"})


def peer_authentication(mode):
    """What the servers of the namespace ask of their callers: STRICT, PERMISSIVE or DISABLE."""
    return resource("PeerAuthentication", "default", "security", mtls={"mode": mode})


def authorization_policy(name, action, *rules, **more):
    return resource("AuthorizationPolicy", name, "security", action=action, rules=list(rules), **more)


def to(name, **subsets):
    """Where a route leads, with weights if there are several: `to("echo", v1=80, v2=20)`."""
    return [
        {"destination": {"host": host(name), "subset": subset}, "weight": weight} for subset, weight in subsets.items()
    ]
