"""Private keys and tokens, which no program of ours may print: in none of the forms in which bytes are written."""

import base64
import os
import re
from pathlib import Path

_PEM = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----([^-]*)-----END")
# What stands in every key of a kind is no secret; in the middle there is what nobody else has.
_MIDDLE = slice(44, 60)

_secrets = {}
_outputs = {}


def key(pem, what="a private key"):
    """Takes note of a private key in PEM, and returns it."""
    text = pem.decode() if isinstance(pem, bytes) else pem
    for _, body in _PEM.findall(text):
        # The second line alone is enough, too: it begins with the rest of what is secret in a key on P-256.
        for form in [*_forms(base64.b64decode(body)[_MIDDLE]), body.split()[1][4:24]]:
            _secrets[form] = what
    return pem


def token(text, what="a token"):
    """Takes note of a token, and returns it."""
    # A forged one may lack any of its parts.
    for part in text.split(".")[1:]:
        if len(part) >= 24:
            _secrets[part] = what
    return text


def outputs_of(program):
    """Has what a program prints looked through if it is ours."""
    # It may run behind a program that changes what it finds around it.
    if any(Path(word).parent == Path(os.environ["MESH_BIN"]) for word in program.argv):
        _outputs[program.output] = _outputs[program.errors] = program.name


def found():
    """What was printed, and in which file."""
    return [f"{file}: {name} printed {what}" for file, name in _outputs.items() for what in _found_in(file)]


def _found_in(file):
    text = file.read_text(errors="replace") if file.exists() else ""
    # A list of bytes may be written over several lines.
    joined = "".join(line.strip() for line in text.splitlines())
    kinds = {what for secret, what in _secrets.items() if secret in text or secret in joined}
    return sorted(kinds | {kind for kind, _ in _PEM.findall(text)})


def _forms(data):
    listed = ", ".join(map(str, data))
    encoded = [base64.urlsafe_b64encode(data[skip:]).rstrip(b"=").decode()[:-2] for skip in range(3)]
    standard = [text.replace("-", "+").replace("_", "/") for text in encoded]
    # As Rust's `{:#?}` writes a list.
    return [data.hex(), data.hex(":"), listed, listed.replace(" ", ""), *encoded, *standard]
