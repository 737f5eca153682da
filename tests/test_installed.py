"""Start-up and installation: what commands import, what a wheel and an editable installation claim and find."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, *paths: Path, cwd: Path) -> str:
    """Run code in a process that has the test environment's packages, and `paths` for nas_proxy."""
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


LISTS = """
import sys
sys.argv = ["nas-proxy", {command!r}]
from nas_proxy.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "torchvision", "optuna", "pandas", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("command", ["spaces", "datasets"])
def test_lists_are_printed_without_importing_what_they_name(tmp_path, command):
    assert {"spaces": "convnet", "datasets": "cifar10"}[command] in python(
        LISTS.format(command=command), ROOT, cwd=tmp_path
    )


def test_the_package_and_the_choices_of_a_space_import_no_torch(tmp_path):
    code = (
        "import sys, nas_proxy\nassert len(sys.modules) < 400\n"
        "nas_proxy.Choice('a', (1, 2)); nas_proxy.DataShape(1, 8, 8, 10)\n"
        "assert not {'torch', 'torchvision', 'optuna'} & set(sys.modules)"
    )
    python(code, ROOT, cwd=tmp_path)


@pytest.mark.slow
def test_no_space_and_no_embedding_network_imports_torchvision_before_it_is_built(tmp_path):
    code = (
        "import sys, nas_proxy.spaces.resnet18, nas_proxy.spaces.loading\n"
        "nas_proxy.load_space('convnet', nas_proxy.DataShape(1, 8, 8, 10))\n"
        "assert not {'torchvision', 'torch._dynamo'} & set(sys.modules)"
    )
    python(code, ROOT, cwd=tmp_path)


USED = (
    "import nas_proxy, importlib.util, sys\n"
    "from nas_proxy.spaces import built_in\n"
    "names = [name for name, about in built_in.list_spaces() if about]\n"
    "module = built_in.module('convnet')\n"
    "assert module.__name__ == 'nas_proxy.search_spaces.convnet'\n"
    "print(nas_proxy.__file__, *names)"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A clone called nas_proxy, as git makes it, with a wheel and an editable wheel of it."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("installed")
    clone = folder / "above" / "nas_proxy"
    left_out = shutil.ignore_patterns(".*", "tests", "benchmarks", "build", "*.egg-info", "__pycache__")
    runs = [ROOT / "runs"]  # not the package of that name
    shutil.copytree(
        ROOT, clone, ignore=lambda of, names: left_out(of, names) | {n for n in names if Path(of, n) in runs}
    )
    code = (
        "from setuptools import build_meta\n"
        f"build_meta.build_wheel({str(folder / 'wheel')!r}); build_meta.build_editable({str(folder / 'editable')!r})"
    )
    for kind in ("wheel", "editable"):
        (folder / kind).mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=clone, check=True, capture_output=True)
    for kind in ("wheel", "editable"):
        (wheel,) = (folder / kind).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder / kind / "site")
    return folder


@pytest.mark.slow
def test_a_wheel_claims_no_name_but_its_own_and_finds_its_spaces(built, tmp_path):
    site = built / "wheel" / "site"
    assert [path.name for path in site.iterdir() if not path.name.endswith("-info")] == ["nas_proxy"]
    file, *names = python(USED, site, cwd=tmp_path).split()
    assert Path(file).is_relative_to(site)
    assert names == ["convnet", "nas_bench_201", "nas_bench_macro", "resnet", "timm_family"]


@pytest.mark.slow
def test_a_clone_is_found_from_the_folder_above_it_once_it_is_installed_editable(built):
    site = built / "editable" / "site"
    # As `site` does with what lies in site-packages; the tests' own installation may be editable too, and is left out.
    code = (
        f"import site, sys\nsys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]\n"
        f"site.addsitedir({str(site)!r})\n{USED}"
    )
    file, *names = python(code, cwd=built / "above").split()
    assert Path(file) == built / "above" / "nas_proxy" / "nas_proxy" / "__init__.py"
    assert names[0] == "convnet"


@pytest.mark.slow
def test_a_clone_is_used_by_its_path_alone(built, tmp_path):
    assert "nas_bench_201" in python(USED, built / "above" / "nas_proxy", cwd=tmp_path)


def test_every_folder_of_the_package_is_packaged():
    import tomllib

    named = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "nas_proxy").rglob("*.py")}
    assert named == {".".join(folder.parts) for folder in folders} | {"nas_proxy.search_spaces"}


@pytest.mark.parametrize(
    "command",
    ["run --ipc abc", "run --dataset cifar11", "run --space conv", "compare --dataset absent", "final runs/absent"],
)
def test_a_mistake_in_an_option_is_told_before_pytorch_is_imported(tmp_path, command):
    code = (
        f"import sys\nsys.argv = ['nas-proxy', *{command.split()}]\nfrom nas_proxy.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 2\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    python(code, ROOT, cwd=tmp_path)
