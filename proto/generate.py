"""Generates `src/tidegate/wire` from the contracts in `proto/`.

Usage: python proto/generate.py [--check]

The compiler comes from the locked `grpcio-tools`, so everybody generates the same bytes;
`--check` fails when the committed code is not what the contracts say.
"""

from __future__ import annotations

import filecmp
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
WIRE = ROOT.parent / "src" / "tidegate" / "wire"
PACKAGE = "tidegate.wire"


def generate(target: Path) -> None:
    """Writes the generated modules below `target`, importable as `tidegate.wire.…`."""
    contracts = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT}",
            f"--proto_path={well_known}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpc_python_out={target}",
            *contracts,
        ]
    )
    if status != 0:
        raise SystemExit(status)
    own = "|".join(sorted({path.split("/")[0] for path in contracts}))
    for module in target.rglob("*.py*"):
        text = module.read_text()
        # protoc writes imports from the proto root; the package lives below tidegate.wire.
        module.write_text(
            re.sub(rf"^from ({own})\.", rf"from {PACKAGE}.\1.", text, flags=re.MULTILINE)
        )
    for folder in {target, *(p.parent for p in target.rglob("*_pb2.py"))}:
        current = folder
        while current != target.parent:
            note = '"""Generated from proto/ by `make wire`; not edited by hand."""\n'
            (current / "__init__.py").write_text(note)
            current = current.parent


def differences(made: Path, committed: Path) -> list[str]:
    names = {p.relative_to(made) for p in made.rglob("*.py*")}
    names |= {
        p.relative_to(committed) for p in committed.rglob("*.py*") if "__pycache__" not in p.parts
    }
    return sorted(
        str(name)
        for name in names
        if not (made / name).is_file()
        or not (committed / name).is_file()
        or not filecmp.cmp(made / name, committed / name, shallow=False)
    )


def main() -> None:
    if "--check" not in sys.argv[1:]:
        generate(WIRE)
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "wire"
        made.mkdir()
        generate(made)
        stale = differences(made, WIRE)
    if stale:
        raise SystemExit(
            f"src/tidegate/wire is not what proto/ says (make wire): {', '.join(stale)}"
        )


if __name__ == "__main__":
    main()
