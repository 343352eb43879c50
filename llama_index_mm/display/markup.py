"""HTML elements out of text that nobody vouches for: everything is escaped that was not made here."""

import html
import re

__all__ = ["Markup", "element", "escape", "join"]

_VOID = frozenset({"base", "img", "meta"})  # elements without content and end tag
# Characters that HTML has no place for. Tabs and line ends are fine.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Markup(str):
    """Text that is HTML already. Only this module and constants of this package make it."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Write any value as HTML text, also fit for a quoted attribute; control characters and lone surrogates are replaced."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return Markup(html.escape(_CONTROL.sub("\ufffd", text), quote=True))


def join(*children: object) -> Markup:
    """Put pieces one after another: markup as it is, None not at all, everything else escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child is not None))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """Make an element.

    Args:
        name: of the element, always a constant of this package.
        *children: as `join` takes them.
        **attributes: names are given with ``_`` for ``-``, and with a ``_`` at the end where Python keeps the word for
            itself. True gives an attribute without a value; None and False leave it out.
    """
    opened = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        opened += f" {key}" if value is True else f' {key}="{escape(value)}"'
    if name in _VOID:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{join(*children)}</{name}>")
