"""How a rule of the stream writes a label; here, because bundles and commands name labels in rules too."""

import keyword
import re


def identifier(label: str) -> str:
    """A name of Python: 'Core/shell' -> 'Core_shell', '2 rings' -> '_2_rings', 'not' -> 'not_'."""
    name = re.sub(r"\W", "_", label)
    name = f"_{name}" if not name or name[0].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) else name
