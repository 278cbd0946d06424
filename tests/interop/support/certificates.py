"""Certificate authorities and what they issue, as the PEM files that providers of certificates read."""

import base64
import datetime
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support import leaks

_BACKDATED, _DAY = datetime.timedelta(minutes=5), datetime.timedelta(days=1)
_USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True)
class Issued:
    """The files of one certificate, and of the authority that its holder trusts."""

    # The first of its URIs, or else of its DNS names: who its holder is.
    name: str
    certificate: Path
    key: Path
    roots: Path

    def providers(self, bundles=None):
        """What a bootstrap says so that the provider `default` has these files (A29), or a bundle map as roots (A87)."""
        # A87's name for it, and that which C-core reads.
        names = ("spiffe_trust_bundle_map_file", "spiffe_bundle_map_file")
        roots = dict.fromkeys(names, bundles) if bundles else {"ca_certificate_file": self.roots}
        files = {"certificate_file": self.certificate, "private_key_file": self.key, **roots}
        config = {name: str(path) for name, path in files.items()}
        return {"default": {"plugin_name": "file_watcher", "config": config | {"refresh_interval": "1s"}}}

    def pem(self):
        """The chain, the key and the roots, as bytes."""
        return self.certificate.read_bytes(), self.key.read_bytes(), self.roots.read_bytes()


class Authority:
    """A certificate authority whose files are in a folder."""

    def __init__(self, folder, name="authority"):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = _subject(name)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = _certificate(self.subject, self.subject, self.key.public_key(), 30 * _DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = made.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        self.roots = folder / f"{name}.pem"
        self.roots.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def key_pem(self):
        return _pem(self.key)

    def issue(self, file, *, uris=(), dns=(), ips=(), subject=None, life=_DAY):
        """A certificate for client and server, with these names; it ends that long from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        made = _certificate(_subject(subject) if subject else x509.Name([]), self.subject, key.public_key(), life)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # As an SVID has it; Envoy's validator for SPIFFE takes none without.
        made = made.add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
        made = made.add_extension(x509.ExtendedKeyUsage(_USAGES), critical=False)
        if names:
            # Critical where the subject is empty (RFC 5280, 4.2.1.6).
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        made = made.sign(self.key, hashes.SHA256())
        paths = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(_pem(key))
        return Issued(next(iter([*uris, *dns]), ""), *paths, self.roots)

    def jwk(self):
        """Its certificate as the key of a trust domain."""
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        at = self.key.public_key().public_numbers()
        number = lambda value: base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()
        point = {"crv": "P-256", "x": number(at.x), "y": number(at.y)}
        return {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(der).decode()], **point}

    def workload(self, file, uri, *dns, **more):
        """The certificate of a workload: an SVID."""
        return self.issue(file, uris=[uri], dns=dns, **more)


class Mounted:
    """The files of a certificate as Kubernetes mounts them: in a folder that is a link, and replaced as a whole."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.generation = 0

    def put(self, issued, *authorities):
        """Puts this certificate in the place of the last one, and these authorities as roots; and where it is now."""
        self.generation += 1
        made = self.folder / f"{self.generation}"
        made.mkdir()
        for name, path in {"certificate": issued.certificate, "key": issued.key}.items():
            (made / name).write_bytes(path.read_bytes())
        (made / "roots").write_bytes(b"".join(authority.roots.read_bytes() for authority in authorities))
        link = self.folder / "next"
        link.symlink_to(made, target_is_directory=True)
        link.replace(self.folder / "now")
        return Issued(issued.name, *(self.folder / "now" / name for name in ("certificate", "key", "roots")))


def bundle_map(path, **authorities):
    """Writes the authority of each trust domain, whose name has `_` for `.`, as a SPIFFE bundle map (A87)."""
    domains = {name.replace("_", "."): {"spiffe_sequence": 1, "keys": [a.jwk()]} for name, a in authorities.items()}
    path.write_text(json.dumps({"trust_domains": domains}))
    return path


def _subject(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(subject, issuer, key, life):
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return made.not_valid_before(now - _BACKDATED).not_valid_after(now + life)


def _pem(key):
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return leaks.key(key.private_bytes(encoding, form, serialization.NoEncryption()))
