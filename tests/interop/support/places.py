"""Where things are. The runner sets the variables; see `run`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
C_CORE = HERE / "peers" / "c_core"


def ours(program):
    """A program of this project."""
    return Path(os.environ["MESH_BIN"]) / program


def peer(program):
    """A peer that was built for the suite."""
    return Path(os.environ["INTEROP_PEERS"]) / program


def envoy():
    return os.environ["INTEROP_ENVOY"]


def tests():
    """The program with the tests of `tests/`."""
    return os.environ["INTEROP_TESTS"]


def istiod():
    return Path(os.environ["INTEROP_ISTIOD"]) / "istiod"
