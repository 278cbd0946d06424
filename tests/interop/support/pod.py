"""A pod of Istio's mesh without an agent: what injection gives to one, where Kubernetes mounts it."""

import base64
import json
import os
import time

from support import leaks

_ISTIOD = "istiod.istio-system.svc"
# What follows runs where the folder $1 is at /var/run and the file $2 at /etc/hosts, and nowhere else.
_MOUNTED = 'mount --bind "$1" /var/run && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


class Pod:
    """Runs programs that find a token, the roots, istiod's name and their environment as they would in Kubernetes.

    Each has a mount namespace of its own, which only root can make.
    """

    def __init__(self, istiod, name, ip, account="default", namespace="default", env=None):
        self.programs = istiod.programs
        self.account = f"system:serviceaccount:{namespace}:{account}"
        self.folder = self.programs.folder / f"pod-{name}"
        self.run = self.folder / "run"
        for folder in ("tokens", "istio"):
            (self.run / "secrets" / folder).mkdir(parents=True)
        self.hosts = self.folder / "hosts"
        self.hosts.write_text(f"127.0.0.1 localhost\n127.0.0.1 {_ISTIOD}\n")
        self.env = {
            "POD_NAME": name,
            "POD_NAMESPACE": namespace,
            "INSTANCE_IP": ip,
            "SERVICE_ACCOUNT": account,
            "PROXY_CONFIG": json.dumps({"discoveryAddress": f"{_ISTIOD}:{istiod.port}"}),
            **(env or {}),
        }
        self.put_token()
        self.put_roots(istiod.root())

    def put_roots(self, pem):
        """Mounts other roots in the place of the CA's own."""
        self._put(self.run / "secrets" / "istio" / "root-cert.pem", pem)

    def put_token(self, life=3600, audience="istio-ca", account=None):
        """Mounts a new token, which ends so many seconds from now."""
        claims = {"sub": account or self.account, "aud": [audience], "exp": int(time.time() + life)}
        part = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=").decode()
        token = f"{part(b'{}')}.{part(json.dumps(claims).encode())}.{part(b'signature')}"
        self._put(self.run / "secrets" / "tokens" / "istio-token", leaks.token(token).encode())

    def _put(self, path, content):
        new = self.folder / "new"
        new.write_bytes(content)
        os.replace(new, path)

    def within(self, argv):
        """The command line that runs a program in the pod."""
        return ["unshare", "--mount", "sh", "-c", _MOUNTED, "sh", self.run, self.hosts, *argv]
