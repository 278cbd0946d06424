"""What goes by chance goes by a seed, which is printed; INTEROP_SEED repeats a run."""

import os
import random


def chosen():
    return int(os.environ.get("INTEROP_SEED") or random.randrange(1 << 32))


def option(client):
    """The option by which our client draws from a seed; the others have none."""
    if client.name != "mesh":
        return {}
    seed = chosen()
    print(f"seed {seed}")
    return {"seed": seed}
