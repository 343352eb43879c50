"""The script that lets meshes turn, and its name in a Content-Security-Policy."""

import base64
import hashlib
from importlib import resources

__all__ = ["SCRIPT", "SCRIPT_SOURCE"]

SCRIPT = resources.files(__package__).joinpath("viewer.js").read_text(encoding="utf-8")
"""Plain JavaScript, which takes nothing but what stands in ``data-mesh`` of elements of its page."""

SCRIPT_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode('utf-8')).digest()).decode('ascii')}'"
"""The one source that ``script-src`` has to allow."""
