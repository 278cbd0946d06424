"""JSON Web Tokens, good and bad, and the keys to verify them by."""

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from support import leaks

_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value, size=None):
    return encoded(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Key:
    """A private key: `RSA`, `P-256`, `P-384` or `Ed25519`."""

    def __init__(self, kind, kid):
        self.kind = kind
        self.kid = kid
        if kind == "RSA":
            self.private = rsa.generate_private_key(65537, 2048)
        elif kind == "Ed25519":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = ec.generate_private_key(_CURVES[kind])

    def jwk(self, **more):
        """The public key."""
        return {"kid": self.kid, "use": "sig", **self._public(), **more}

    def _public(self):
        public = self.private.public_key()
        if self.kind == "Ed25519":
            return {"kty": "OKP", "crv": "Ed25519", "x": encoded(public.public_bytes_raw())}
        numbers = public.public_numbers()
        if self.kind == "RSA":
            return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        size = self._size()
        return {"kty": "EC", "crv": self.kind, "x": _number(numbers.x, size), "y": _number(numbers.y, size)}

    def _size(self):
        return _CURVES[self.kind].key_size // 8

    def sign(self, alg, data):
        """The signature by an algorithm that this key may not be for: what it can do is done in its place."""
        if alg == "none":
            return b""
        if alg.startswith("HS"):
            # With the public key as the secret, as forgers do.
            return hmac.new(json.dumps(self._public()).encode(), data, hashlib.sha256).digest()
        digest = _HASHES.get(alg[2:], hashes.SHA256())
        if self.kind == "Ed25519":
            return self.private.sign(data)
        if self.kind == "RSA":
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            return self.private.sign(data, pss if alg.startswith("PS") else padding.PKCS1v15(), digest)
        r, s = utils.decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(self._size(), "big") + s.to_bytes(self._size(), "big")


def token(key, alg, claims, **header):
    """A token with these claims, or with the text that they are; a header of `None` is left out."""
    head = {
        name: value for name, value in {"alg": alg, "kid": key.kid, "typ": "JWT", **header}.items() if value is not None
    }
    body = claims if isinstance(claims, str) else json.dumps(claims)
    signed = f"{encoded(json.dumps(head).encode())}.{encoded(body.encode())}"
    return leaks.token(f"{signed}.{encoded(key.sign(alg, signed.encode()))}")
