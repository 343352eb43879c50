"""Files, damaged."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

STRIKING = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\x80" + b"\0" * 3, b"\0" * 8]


def damage(data, draw):
    """Some bytes replaced, cut out, repeated or swapped; `draw(n)` gives a number below n."""
    data = bytearray(data)
    for _ in range(1 + draw(8)):
        if not data:
            break
        # Headers are where the numbers are.
        at = draw(min(len(data), 256)) if draw(2) else draw(len(data))
        match draw(6):
            case 0:
                data[at] ^= 1 << draw(8)
            case 1:
                new = STRIKING[draw(len(STRIKING))]
                data[at : at + len(new)] = new
            case 2:
                del data[at : at + 1 + draw(64)]
            case 3:
                data[at:at] = data[at : at + 1 + draw(256)] * (1 + draw(4))
            case 4:
                data = data[:at] if draw(4) == 0 else data
            case 5:
                new = bytes(draw(256) for _ in range(1 + draw(8)))
                data[at : at + len(new)] = new
    return bytes(data)


def fuzz(check, seeds, seconds, folder):
    """Damage files for some seconds, and count what `check` gives. The one at hand lies in the folder."""
    random, counts, slowest = np.random.default_rng(), Counter(), 0.0
    until, at_hand = time.monotonic() + seconds, Path(folder) / "at-hand"
    while time.monotonic() < until:
        data = damage(seeds[random.integers(len(seeds))], lambda below: int(random.integers(below)))
        at_hand.write_bytes(data)
        began = time.monotonic()
        try:
            counts[check(data)] += 1
        except Exception as error:
            counts[type(error).__name__] += 1
            (Path(folder) / f"{type(error).__name__}-{sum(counts.values())}").write_bytes(data)
        slowest = max(slowest, time.monotonic() - began)
    return {**counts, "slowest": slowest}


def run_child(file, entry, seconds, hang, capsys):
    """Run a test file as a program that fuzzes one entry, so that a crash is seen as one; give what it counted."""
    folder = tempfile.mkdtemp(prefix=f"fuzz-{entry}-")
    child = subprocess.run(
        [sys.executable, "-W", "ignore", file, entry, str(seconds), folder],
        capture_output=True,
        text=True,
        timeout=seconds + hang + 60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.returncode == 0, f"died of {folder}/at-hand: {child.stderr[-1000:]}"
    told = json.loads(child.stdout)
    with capsys.disabled():
        sys.stdout.write(f"\n{entry}: {told} in {folder}\n")
    return told
