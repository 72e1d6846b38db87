# SPDX-License-Identifier: BSD-3-Clause
"""What embed.S is to put into the kernel, as a header: embed.py OBJECT module.c NM >HEADER

Fails if the object refers to a name that module.c does not know.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path


def main() -> int:
    path, source, nm = sys.argv[1:]
    listed = subprocess.run([nm, "-u", path], capture_output=True, text=True, check=True).stdout
    # The compiler names the table wherever it uses a slot of it; nothing refers to it.
    wanted = {line.split()[-1] for line in listed.splitlines()} - {"_GLOBAL_OFFSET_TABLE_"}
    known = set(re.findall(r"^\tX\((\w+)\)", Path(source).read_text(), re.MULTILINE))
    if missing := sorted(wanted - known):
        print(f"{source} lacks what the module needs: {', '.join(missing)}", file=sys.stderr)
        return 1
    digest = hashlib.sha256(Path(path).read_bytes()).digest()
    print(f'#define MODULE_FILE "{path}"')
    print(f"#define MODULE_HASH {', '.join(map(str, digest))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
