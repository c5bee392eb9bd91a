"""Generate the Python code of every .proto file under src, beside it; --check only says whether that is up to date."""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parent.parent / "src"


def generate(target: Path) -> list[Path]:
    """Compile into `target`, laid out as under src. Returns the files; exits where one does not compile."""
    protos = sorted(SOURCE.rglob("*.proto"))
    if not protos:
        raise SystemExit("no .proto file found under src")
    well_known = resources.files("grpc_tools") / "_proto"
    paths = [str(proto.relative_to(SOURCE)) for proto in protos]
    options = [f"-I{SOURCE}", f"-I{well_known}", f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *options, *paths]) != 0:
        raise SystemExit(1)
    return sorted(target.rglob("*_pb2.py*"))


def stale() -> list[Path]:
    """Generated files under src that differ from what their .proto gives, or are missing."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        pairs = [(SOURCE / one.relative_to(fresh), one) for one in generate(fresh)]
        return [kept for kept, made in pairs if not kept.exists() or kept.read_bytes() != made.read_bytes()]


def main() -> int:
    """Exit code 1 where --check finds something out of date."""
    if "--check" not in sys.argv[1:]:
        generate(SOURCE)
        return 0
    outdated = stale()
    for path in outdated:
        print(f"{path.relative_to(SOURCE.parent)} is out of date: run python tools/generate_protobuf.py")
    return 1 if outdated else 0


if __name__ == "__main__":
    raise SystemExit(main())
