"""The licences that a sample may have, and how a sample is credited in attribution.json and ATTRIBUTION.md."""

from __future__ import annotations

from typing import Any

from packages import Package

LICENSES = {
    "BSD-3-Clause": "https://spdx.org/licenses/BSD-3-Clause.html",
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "Public-Domain": "https://creativecommons.org/publicdomain/mark/1.0/",
}

INTRODUCTION = """# Where the samples come from

Every file here is openly licensed or in the public domain. Each keeps its own licence, which is not the licence of
slimbind: CC-BY-SA files may be changed and passed on only under the same licence. The packages named below are where
this project took the files from; their versions and sha256 are pinned in `recipes/samples/catalogue.toml`, and
`python recipes/samples/build.py` makes this folder anew. `attribution.json` says the same for programs.
"""

BSD_NOTICE = """
## Notice for the BSD-3-Clause files

Copyright (c) the JPEG XL Project Authors. All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following
   disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
   disclaimer in the documentation and/or other materials provided with the distribution.
3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote
   products derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""


def as_record(item: dict[str, Any], package: Package, changes: str) -> dict[str, Any]:
    """Return one entry of attribution.json for an item of the catalogue."""
    return {
        "file": item["file"],
        "title": item["title"],
        "author": item["author"],
        "license": item["license"],
        "origin": item.get("origin", ""),
        # Creative Commons asks for earlier changes to be named as well.
        "changes": "; ".join(filter(None, [item.get("changed_before"), changes])),
        "source": {
            "registry": package.registry,
            "package": package.name,
            "version": package.version,
            "path": item["path"],
            "license_evidence": item["evidence"],
        },
    }


def as_markdown(records: list[dict[str, Any]]) -> str:
    """Return ATTRIBUTION.md: one table per folder."""
    lines = [INTRODUCTION]
    for folder in sorted({record["file"].split("/")[0] for record in records}):
        lines += [
            f"## {folder}",
            "",
            "| file | title | author | licence | package | changes |",
            "|---|---|---|---|---|---|",
        ]
        for record in records:
            if record["file"].startswith(folder + "/"):
                lines.append(_row(record))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n" + BSD_NOTICE


def _row(record: dict[str, Any]) -> str:
    source = record["source"]
    title = record["title"].replace("|", "/")
    if record["origin"]:
        title = f"[{title}](<{record['origin']}>)"
    licence = f"[{record['license']}]({LICENSES[record['license']]})"
    name = {"debian": "Debian", "pypi": "PyPI"}[source["registry"]]
    package = f"{name} {source['package']} {source['version']}"
    cells = (record["file"].split("/")[1], title, record["author"], licence, package, record["changes"])
    return "| " + " | ".join(cells) + " |"
