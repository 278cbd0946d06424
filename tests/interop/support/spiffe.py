"""A SPIFFE agent, go-spiffe as peer, and what our programs are told to use the agent."""

import os
import signal
from pathlib import Path

from support.calls import Client
from support.places import ours

# The certificate provider of a bootstrap that is the agent at SPIFFE_ENDPOINT_SOCKET.
PROVIDERS = {"default": {"plugin_name": "spiffe_workload_api", "config": {}}}


def _program(name):
    return Path(os.environ["INTEROP_SPIFFE"]) / name


class Agent:
    """A stand-in for an agent, with a socket for each workload: `Agent(programs, ours="spiffe://mesh.test/ours")`."""

    def __init__(self, programs, life="6s", **ids):
        folder = programs.folder
        self.sockets = {name: folder / f"{name}.sock" for name in ids}
        serve = [f"--serve={self.sockets[name]}={id}" for name, id in ids.items()]
        self.program = programs.start("workload-api", [_program("workload-api"), "--life", life, *serve])
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
    argv = [_program("svid-peer"), "serve", *(f"--trust={domain}" for domain in trusted), "127.0.0.1:0"]
    return programs.serve(f"go-server-{name}", argv, agent.env(name))


def go_client(agent, name, *trusted):
    trust = (f"--trust={domain}" for domain in trusted)
    return Client(f"go-{name}", (_program("svid-peer"), "call", *trust), agent.env(name))


def greeter(programs, bootstrap, agent, name):
    """Our greeter, which asks the agent for its certificates and the control plane for its Listener."""
    env = agent.env(name) | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)}
    return programs.serve(f"greeter-{name}", [ours("greeter-server"), "--listen", "127.0.0.1:0"], env)


def mesh(agent, name):
    """Our client, which asks the agent for its certificates."""
    return Client("mesh", (ours("call"),), agent.env(name))
