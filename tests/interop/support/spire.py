"""SPIRE's server and agent, which tell workloads apart by their executables."""

import os
from pathlib import Path

from support.istio import free_ports
from support.places import ours
from support.spiffe import program
from support.wait import until

_SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  trust_domain = "mesh.test"
  data_dir = "{folder}"
  ca_ttl = "{ca_life}"
  default_x509_svid_ttl = "{life}"
  agent_ttl = "1h"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{folder}/server.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"""
_AGENT = """
agent {{
  data_dir = "{folder}"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{folder}/agent.sock"
  trust_domain = "mesh.test"
  insecure_bootstrap = true
  sds {{ {sds} }}
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""
_AGENT_ID = "spiffe://mesh.test/agent"


class Spire:
    """A server and an agent that know our client, our server and go-spiffe's peer, each by an ID of mesh.test."""

    # How it calls a workload's certificate and the authorities of its trust domain.
    SECRETS = ("default", "ROOTCA")

    def __init__(self, programs, life="10s", ca_life="1h", sds=""):
        self.programs = programs
        self.folder = programs.folder / "spire"
        self.socket = self.folder / "agent.sock"
        self.folder.mkdir()
        settings = {"folder": self.folder, "port": free_ports(1)[0], "life": life, "ca_life": ca_life, "sds": sds}
        self.agent_argv = self._configured("agent", _AGENT, settings)
        self.server = programs.start("spire-server", self._configured("server", _SERVER, settings))
        until(self._is_healthy, 30, "SPIRE's server to be healthy")
        for name, path in [("ours", ours("call")), ("server", ours("greeter-server")), ("peer", program("svid-peer"))]:
            entry = ["-parentID", _AGENT_ID, "-spiffeID", f"spiffe://mesh.test/{name}"]
            self._ask("entry", "create", *entry, "-selector", f"unix:path:{path.resolve()}")
        token = self._ask("token", "generate", "-spiffeID", _AGENT_ID).split()[1]
        self.start_agent("-joinToken", token)

    def start_agent(self, *more):
        """Starts the agent, the second time with the identity that it has."""
        self.agent = self.programs.start("spire-agent", [*self.agent_argv, *more])
        until(self.socket.exists, 30, "the agent's socket")

    def env(self, _):
        return {"SPIFFE_ENDPOINT_SOCKET": f"unix://{self.socket}"}

    def renewals(self, name):
        """How often the agent that runs renewed the SVID of this workload."""
        lines = self.agent.text().splitlines() + self.agent.errors.read_text().splitlines()
        return sum("Renewing X509-SVID" in line and f'"spiffe://mesh.test/{name}"' in line for line in lines)

    def authorities(self):
        """How often the server began to sign with a new authority."""
        lines = self.server.text() + self.server.errors.read_text()
        return lines.count("X509 CA activated")

    def _configured(self, name, text, settings):
        path = self.folder / f"{name}.conf"
        path.write_text(text.format(**settings))
        return [Path(os.environ["INTEROP_SPIRE"]) / f"spire-{name}", "run", "-config", path]

    def _is_healthy(self):
        assert self.server.running(), self.server.tail()
        return (self.folder / "server.sock").exists() and "healthy" in self._ask("healthcheck")

    def _ask(self, *words):
        asked = self.programs.start("spire-ask", [self.server.argv[0], *words, "-socketPath", self.folder / "server.sock"])
        status = asked.wait(20)
        assert status == 0 or words == ("healthcheck",), asked.tail()
        return asked.text()
