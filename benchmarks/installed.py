"""What `k2run[sandbox]` installs, in MB on disk with its byte code, by package.

python benchmarks/installed.py [--least 5]
"""

from __future__ import annotations

import argparse
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WANTED = "k2run[sandbox]"
BAR_MB = 750.0


def wanted(root: str) -> dict[str, Distribution]:
    """The packages that one asks for, itself included, and all that those ask for."""
    found: dict[str, Distribution] = {}
    left, seen = [Requirement(root)], set()
    while left:
        asked = left.pop()
        name = canonicalize_name(asked.name)
        for extra in ("", *asked.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found[name] = distribution(asked.name)
            except PackageNotFoundError:  # for another platform
                continue
            for text in found[name].requires or ():
                one = Requirement(text)
                if one.marker is None or one.marker.evaluate({"extra": extra}):
                    left.append(one)
    return found


def size_mb(package: Distribution) -> float:
    """Its files, and their byte code, which not every installer lists."""
    paths = {Path(str(package.locate_file(file))).resolve() for file in package.files or ()}
    for path in list(paths):
        if path.suffix == ".py":
            paths.update((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))
    return sum(path.stat().st_blocks for path in paths if path.is_file()) * 512 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=5.0, help="MB below which a package is one of the others")
    least = parser.parse_args().least
    sizes = {name: size_mb(package) for name, package in wanted(WANTED).items()}
    for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
        if size >= least:
            print(f"{size:7.1f}  {name}")
    others = [size for size in sizes.values() if size < least]
    print(f"{sum(others):7.1f}  {len(others)} others\n{sum(sizes.values()):7.1f}  in all; bar {BAR_MB:.0f}")


if __name__ == "__main__":
    main()
