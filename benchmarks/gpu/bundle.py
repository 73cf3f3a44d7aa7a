"""What a GPU machine without a package index lacks, gathered where there is one: `make gpu-bundle`.

Fills runs/gpu-bundle with wheels for the machine's Python, DeepSpeed's source, and install.sh. The
machine is to have torch, transformers, peft, pytorch-lightning, torchmetrics, matplotlib and
tensorboard. `datasets` and pyarrow stay behind: nothing of `make gpu` needs them.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
MIB = 2**20

WHEELS = ("jsonargparse[signatures]", "pydantic", "hjson", "py-cpuinfo", "einops", "msgpack",
          "ninja", "psutil", "pytest", "hypothesis")
"""Each comes with what it depends on, in versions that fit together."""

SOURCES = ("deepspeed",)
"""There are no wheels of it, and its dependencies are above or on the machine."""

PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux2010_x86_64",
             "manylinux_2_5_x86_64", "manylinux1_x86_64")

LARGEST = 64
"""MiB of the bundle and the tracked files, together at most."""


def wheels_command(folder: Path, python: str) -> list[str]:
    """The arguments of pip for ``WHEELS``."""
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    return ["download", "--dest", str(folder), "--constraint", str(CONSTRAINTS),
            "--only-binary=:all:", "--implementation", "cp", "--python-version", python,
            *platforms, *WHEELS]


def sources_command(folder: Path) -> list[str]:
    """The arguments of pip for ``SOURCES``."""
    return ["download", "--dest", str(folder), "--no-deps", "--no-build-isolation",
            f"--no-binary={','.join(SOURCES)}", *SOURCES]


def size(files: Iterable[Path]) -> float:
    """MiB of ``files``."""
    return sum(file.stat().st_size for file in files) / MIB


def tracked() -> list[Path]:
    """The files of the repository that are under version control."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def judged(bundle: float, tree: float) -> tuple[str, int]:
    """What to say of the sizes in MiB, and the exit status."""
    total = bundle + tree
    told = f"{bundle:.1f} MiB of packages and {tree:.1f} MiB of tracked files: {total:.1f} MiB"
    if total > LARGEST:
        return f"{told}, more than the {LARGEST} that may be carried.", 1
    return f"{told} of at most {LARGEST}.", 0


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 1 where the bundle is too large or pip has failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.bundle", description=__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs/gpu-bundle"), help="folder to fill anew")
    add("--python", default="3.12", help="version of the GPU machine's Python")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    for command in (wheels_command(options.output, options.python),
                    sources_command(options.output)):
        if subprocess.run([sys.executable, "-m", "pip", *command]).returncode:
            return 1
    shutil.copy(Path(__file__).with_name("install.sh"), options.output)
    told, status = judged(size(options.output.iterdir()), size(tracked()))
    print(told)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
