"""Unary calls by a client of ours or by gRPC C-core's: the same command line and the same summary."""

import json
from dataclasses import dataclass, field

from support.places import C_CORE, PYTHON, ours, peer

METHOD = "/interop.Echo/Say"


@dataclass(frozen=True)
class Client:
    name: str
    argv: tuple
    env: dict = field(default_factory=dict)

    def __str__(self):
        return self.name


def mesh():
    return Client("mesh", (ours("call"),))


def in_pod(pod):
    """Our client in a pod of Istio's, without an agent."""
    return Client("mesh", tuple(pod.within([ours("call"), "--istio"])), pod.env)


def c_core():
    return Client("c-core", (PYTHON, C_CORE / "call.py"))


def c_core_secured():
    """C-core's client, with TLS where the control plane asks for it, as ours always has it."""
    return Client("c-core", (PYTHON, C_CORE / "call.py", "--xds-credentials"))


def grpc_go():
    """grpc-go's client, with TLS where the control plane asks for it; it has few of the options."""
    return Client("grpc-go", (peer("xds-client"),))


@dataclass
class Summary:
    """What a client says of its calls."""

    calls: int
    codes: dict
    endpoints: dict
    message: str
    max_ms: float
    reply: bytes
    ignored: dict | None = None
    each: list = field(default_factory=list)

    @property
    def failed(self):
        return self.calls - self.codes.get("OK", 0)

    @property
    def code(self):
        """The status of all calls, which had but one."""
        assert len(self.codes) == 1, self.codes
        return next(iter(self.codes))

    def share(self, endpoint):
        """Which part of the calls this endpoint had."""
        return self.endpoints.get(endpoint, 0) / self.calls


def start(programs, client, target, method=METHOD, *, bootstrap=None, headers=(), data=b"", each=False, **options):
    """Starts calls; `summary` waits for their end. Options are those of the command: `count=100, deadline="5s"`."""
    argv = [*client.argv, "--json"]
    if each:
        argv.append("--each")
    for name, value in options.items():
        argv += [f"--{name}"] if value is True else [f"--{name}", value]
    for name, value in dict(headers).items():
        argv += ["--header", f"{name}={value}"]
    if data:
        argv += ["--data", _argument(programs, data)]
    # By the environment and not by --bootstrap: it is how a gRPC application is given it.
    env = {"GRPC_XDS_BOOTSTRAP": str(bootstrap)} if bootstrap else {}
    return programs.start(f"call-{client.name}", [*argv, target, method], client.env | env)


def summary(program, within=60):
    """What the calls came to. The exit status says whether all were answered OK, which here is for tests to judge."""
    program.wait(within)
    lines = program.json_lines()
    assert lines, f"{program.name} printed no summary: {program.tail()}"
    last = lines[-1]
    known = {key: last.get(key) for key in ("calls", "codes", "endpoints", "message", "max_ms", "ignored")}
    return Summary(**known, reply=bytes.fromhex(last.get("reply") or ""), each=lines[:-1])


def end(program):
    """Ends calls that have no end of their own (`count=0`), and what they came to."""
    program.interrupt()
    return summary(program)


def call(programs, client, target, method=METHOD, within=60, **options):
    """Calls, and what they came to."""
    return summary(start(programs, client, target, method, **options), within)


def _argument(programs, data):
    """The request in hex; by a file where an argument of a program cannot be that long."""
    if len(data) < 60_000:
        return data.hex()
    path = programs.folder / f"request-{len(data)}.bin"
    path.write_bytes(data)
    return f"@{path}"
