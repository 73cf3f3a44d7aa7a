"""`make gpu-bundle`: what is asked of pip, what may be carried, and the script that installs it."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from benchmarks.gpu import bundle

INSTALL = Path(bundle.__file__).with_name("install.sh")


def test_wheels_are_for_the_machine_and_as_tests_have_them(tmp_path: Path):
    command = bundle.wheels_command(tmp_path, "3.12")
    assert command[command.index("--python-version") + 1] == "3.12"
    assert command[command.index("--constraint") + 1] == str(bundle.CONSTRAINTS)
    assert "--only-binary=:all:" in command and "deepspeed" not in command
    for line in (command, bundle.sources_command(tmp_path)):
        assert not any("://" in argument or "index" in argument for argument in line)
        assert not {"datasets", "pyarrow", "torch"} & set(line)


def test_what_is_too_large_to_carry_fails():
    assert bundle.judged(10.0, 8.0)[1] == 0 and "18.0 MiB" in bundle.judged(10.0, 8.0)[0]
    assert bundle.judged(60.0, 8.0)[1] == 1 and "68.0 MiB" in bundle.judged(60.0, 8.0)[0]


def test_sizes_are_those_of_files(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"0" * 2**19)
    (tmp_path / "b").write_bytes(b"0" * 2**20)
    assert bundle.size(tmp_path.iterdir()) == 1.5
    tracked = bundle.tracked()
    assert bundle.ROOT / "setup.cfg" in tracked and not any("runs" in p.parts for p in tracked)


def write_wheel(folder: Path, name: str) -> None:
    files = {
        f"{name}.py": "VALUE = 'of a wheel'",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
                                       "Root-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


def write_source(folder: Path, name: str, imports: str) -> None:
    """A source whose setup.py imports what only a wheel beside it has."""
    setup = (f"import setuptools, {imports}\n"
             f"setuptools.setup(name='{name}', version='1.0', py_modules=['{name}'])\n")
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as source:
        for path, content in (("setup.py", setup), (f"{name}.py", "VALUE = 'of a source'")):
            info = tarfile.TarInfo(f"{name}-1.0/{path}")
            info.size = len(content)
            source.addfile(info, io.BytesIO(content.encode()))


def test_the_script_installs_wheels_and_sources_beside_it(tmp_path: Path):
    """Also a second time."""
    script = tmp_path / "install.sh"
    script.write_bytes(INSTALL.read_bytes())
    write_wheel(tmp_path, "rcp_needed")
    write_source(tmp_path, "rcp_built", imports="rcp_needed")
    code = "import rcp_built, rcp_needed; print(rcp_needed.VALUE, rcp_built.VALUE)"
    for line, told in (
        (f"bash {script}", f"export PYTHONPATH={tmp_path / 'site'}\n"),
        (f'eval "$(bash {script})" && "$PYTHON" -c "{code}"', "of a wheel of a source\n"),
    ):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PYTHON": sys.executable})
        assert done.stdout == told, done.stderr
