"""What users install: the wheel and the sdist have what they need and nothing else, and the command works.

Nothing is downloaded: hatchling is in the tests' environment, and the fresh environment that the wheel goes into
borrows the dependencies from there.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest

import kvmcp

CHECKOUT = Path(__file__).parents[1]
VERSION = kvmcp.__version__


def run(*command: str | Path, **environment: str) -> str:
    """What `command` prints; its failure fails the test, with what it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, made from the checkout, and the wheel, made from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, CHECKOUT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path


def sources(folder: Path, *endings: str) -> set[str]:
    """The files below `folder`, as paths relative to it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in endings and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"kvmcp-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = f"kvmcp-{VERSION}.dist-info"
    package = {name.removeprefix("kvmcp/") for name in names if name.startswith("kvmcp/")}
    assert package == sources(CHECKOUT / "src" / "kvmcp", ".py") | {"py.typed"}
    assert {name for name in names if not name.startswith("kvmcp/")} == {
        f"{metadata}/{name}"
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }


def test_the_metadata_says_what_users_look_for(wheel: Path) -> None:
    metadata = read_metadata(wheel)
    assert metadata["Name"] == "kvmcp"
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_dependencies_at_run_time_are_few(wheel: Path) -> None:
    requirements = read_metadata(wheel).get_all("Requires-Dist", [])
    assert {needed.split("<")[0].split(">")[0] for needed in requirements if "extra ==" not in needed} == {
        "anyio",
        "h11",
        "hiredis",
        "hypercorn",
        "msgspec",
        "redis",
        "wsproto",
    }


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return BytesParser().parsebytes(archive.read(f"kvmcp-{VERSION}.dist-info/METADATA"))


def test_the_sdist_holds_what_makes_and_tests_the_package(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/kvmcp/{name}" for name in sources(CHECKOUT / "src" / "kvmcp", ".py", ".toml")} <= names
    assert {f"tests/{name}" for name in sources(CHECKOUT / "tests", ".py")} <= names
    assert {
        "src/kvmcp/py.typed",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        "PKG-INFO",
    } <= names
    assert {"Makefile", ".ci/run", "docs/development.md"} <= names
    strange = {name for name in names if {".venv", ".venvs", "__pycache__", ".git"} & set(name.split("/"))}
    assert strange == set()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment that the wheel was installed into."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    # A path after its own packages: anyio and msgspec come from the tests' environment, kvmcp from the wheel.
    # (The editable kvmcp there is reached by a .pth file, and those are not followed from here.)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    theirs = Path(run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "borrowed.pth").write_text(f"{theirs}\n")
    origin = Path(run(python, "-P", "-c", "import kvmcp; print(kvmcp.__file__)", PYTHONPATH="").strip())
    assert origin.is_relative_to(environment)
    return environment / "bin"


@pytest.mark.parametrize("command", [["kvmcp"], ["python", "-m", "kvmcp"]], ids=" ".join)
def test_the_installed_command_works(installed: Path, command: list[str]) -> None:
    program, *rest = command
    assert VERSION in run(installed / program, *rest, "--version", PYTHONPATH="")
    assert "redis_get" in run(installed / program, *rest, "tools", PYTHONPATH="")


def test_the_installed_package_is_typed(installed: Path, tmp_path: Path) -> None:
    """mypy takes the types from `py.typed`, as it would in a user's project."""
    user = tmp_path / "user.py"
    user.write_text("import kvmcp\n\nreveal_type(kvmcp.__version__)\n")
    said = run(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache",
               "--python-executable", installed / "python", user)  # fmt: skip
    assert 'Revealed type is "str"' in said.replace("builtins.", "")
