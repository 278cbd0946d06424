"""A SPIFFE agent, go-spiffe as peer, and our programs with their certificates from the agent."""

import json
import os
import signal
from pathlib import Path

from support import calls, servers
from support.calls import Client
from support.places import ours
from support.secured import MTLS, downstream_by_secrets, server_listener, upstream, upstream_by_secrets
from support.wait import until
from support.xds import bootstrap, service

GREETING = {"method": "/helloworld.Greeter/SayHello", "data": b"\x0a\x04mesh"}
# Whose members go-spiffe takes.
TRUSTED = ("mesh.test", "other.test")

# The certificate provider of a bootstrap that is the agent at SPIFFE_ENDPOINT_SOCKET.
PROVIDERS = {"default": {"plugin_name": "spiffe_workload_api", "config": {}}}


def program(name):
    return Path(os.environ["INTEROP_SPIFFE"]) / name


class Agent:
    """A stand-in for an agent, with a socket for each workload: `Agent(programs, ours="spiffe://mesh.test/ours")`."""

    def __init__(self, programs, life="6s", **ids):
        folder = programs.folder
        self.sockets = {name: folder / f"{name}.sock" for name in ids}
        serve = [f"--serve={self.sockets[name]}={id}" for name, id in ids.items()]
        self.program = programs.start("workload-api", [program("workload-api"), "--life", life, *serve])
        self.program.first_line()

    def env(self, name):
        return {"SPIFFE_ENDPOINT_SOCKET": f"unix://{self.sockets[name]}"}

    def issued(self):
        """How many times it issued anew."""
        return len(self.program.json_lines())

    def take_first_socket_away(self):
        self.program.process.send_signal(signal.SIGUSR1)

    def give_first_socket_back(self):
        self.program.process.send_signal(signal.SIGUSR2)


def go_server(programs, agent, name, *trusted):
    argv = [program("svid-peer"), "serve", *(f"--trust={domain}" for domain in trusted), "127.0.0.1:0"]
    return programs.serve(f"go-server-{name}", argv, agent.env(name))


def go_client(agent, name, *trusted):
    trust = (f"--trust={domain}" for domain in trusted)
    return Client(f"go-{name}", (program("svid-peer"), "call", *trust), agent.env(name))


def greeter(programs, bootstrap, env, name, *options):
    """Our greeter, which asks the control plane for its Listener."""
    argv = [ours("greeter-server"), "--listen", "127.0.0.1:0", *options]
    return programs.serve(f"greeter-{name}", argv, env | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)})


class Site:
    """An agent, go-spiffe's server and our own with its Listener, and our control plane for whoever calls them."""

    def __init__(self, programs, folder, tmp_path, agent):
        self.programs = programs
        self.folder = folder
        self.agent = agent
        self.control_plane = servers.control_plane(programs, folder)
        self.bootstrap = bootstrap(tmp_path, self.control_plane.address, providers=PROVIDERS)

    def go_server(self, name, id, agent=None):
        """A server of go-spiffe, and our target for it."""
        server = go_server(self.programs, agent or self.agent, name, *TRUSTED)
        resources = service(name, server.address)
        resources[2]["transport_socket"] = upstream(MTLS, id)
        self.folder.put(*resources)
        return f"xds:///{name}"

    def greeter(self, name):
        """The address of our server, which serves."""
        server = greeter(self.programs, self.bootstrap, self.agent.env(name), name)
        return self._serving(server, server_listener(server.address, security=MTLS))

    def _serving(self, server, listener):
        self.folder.put(listener)
        until(lambda: server.errors.read_text().splitlines()[-1:] == ["serving"], 20, "our server to serve")
        return server.address

    def by_us(self, name, target, **options):
        options = {"rate": 200, "bootstrap": self.bootstrap, **GREETING, **options}
        return calls.start(self.programs, Client("mesh", (ours("call"),), self.agent.env(name)), target, **options)

    def by_go(self, name, address, **options):
        client = go_client(self.agent, name, *TRUSTED)
        return calls.start(self.programs, client, address, **{"rate": 200, **GREETING, **options})

    def has_nacked(self):
        return servers.nacks(self.control_plane)


class SecretsSite(Site):
    """The same, with certificates and roots as secrets (SDS) of the agent's socket: no provider is configured."""

    def __init__(self, programs, folder, tmp_path, agent):
        super().__init__(programs, folder, tmp_path, agent)
        self.bootstrap = bootstrap(tmp_path, self.control_plane.address, name="no-providers")
        self.secrets = (agent.socket, *agent.SECRETS)
        self.allowed = f"--allow-files-below={agent.socket.parent}"

    def go_server(self, name, id):
        server = go_server(self.programs, self.agent, name, *TRUSTED)
        resources = service(name, server.address)
        resources[2]["transport_socket"] = upstream_by_secrets(*self.secrets, id)
        self.folder.put(*resources)
        return f"xds:///{name}"

    def greeter(self, name):
        server = greeter(self.programs, self.bootstrap, {}, name, self.allowed)
        listener = server_listener(server.address)
        listener["filter_chains"][0]["transport_socket"] = downstream_by_secrets(*self.secrets)
        return self._serving(server, listener)

    def by_us(self, _, target, **options):
        client = Client("mesh", (ours("call"), self.allowed))
        return calls.start(self.programs, client, target, **{"rate": 200, "bootstrap": self.bootstrap, **GREETING, **options})


def last_code(program):
    """The status of the call that ended last, of calls that are told `each`."""
    lines = [line for line in program.text()[-4000:].split("\n")[:-1] if line.startswith("{")]
    return json.loads(lines[-1])["code"] if lines else None


def begun(program):
    """Waits for its first calls to succeed."""
    until(lambda: last_code(program) == "OK", 20, f"the first calls of {program.name}")
    return program
