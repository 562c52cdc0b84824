"""What `pip install` brings, outside of the checkout: the wheel in an environment of its own."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT

pytestmark = pytest.mark.slow

PARTS = ("setup.py", "pyproject.toml", "ialcms", "shards", "launch", "configs", "slurm")
TINY = [
    *(
        "train.steps=2",
        "train.global_batch=4",
        "train.log_every=1",
        "train.validate_every=2",
        "train.visualise_every=0",
    ),
    *("audio.num_samples=16383", "audio.log_bins=64", "loss.bank_size=24", "data.loader_workers=0"),
    *("data.image_resize=36", "data.image_crop=32", "model.unet.width=4", "model.critic.width=4"),
    *("model.visual.weights=none", "model.visual.width=4", "model.visual.aspp_channels=8"),
    *("model.visual.low_level_channels=4", "model.visual.channels=16"),
    *("eval.draws=1", "eval.hop=16383", "eval.examples=0", "eval.seconds=3.0"),
]

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:  # a build leaves folders behind, so not in the checkout itself
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("ialcms-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and the dependencies of this one without the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    _pip("--python", str(folder / "bin" / "python"), "install", "--no-deps", str(wheel))
    (packages,) = folder.glob("lib/python*/site-packages")
    # As plain paths: the .pth files in there, one of which leads to the checkout, are not looked at.
    others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "dependencies.pth").write_text("\n".join(others))
    return folder


@pytest.fixture(scope="module")
def run(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a program of the environment in a folder that has nothing of ours."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def start(program: str, *arguments: str, cwd: Path = elsewhere, code: int = 0) -> subprocess.CompletedProcess:
        result = subprocess.run(
            [environment / "bin" / program, *arguments],
            cwd=cwd,
            env={**inherited, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return start


def test_one_name_is_claimed_and_nothing_imports_another(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {name.split("/")[0].partition("-")[0] for name in names} == {"ialcms"}
        (listed,) = (name for name in names if name.endswith("/top_level.txt"))
        assert archive.read(listed).split() == [b"ialcms"]
        modules = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
    imported = {name.split(".")[0] for text in modules.values() for name in _imports(text)}
    assert "ialcms" in imported
    assert not {"shards", "launch", "tests", "benchmarks"} & imported


def test_nothing_of_the_checkout_is_missing(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", *PARTS[2:]], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    files = [path for path in tracked.stdout.splitlines() if (ROOT / path).is_file()]
    expected = {path if path.startswith("ialcms/") else f"ialcms/{path}" for path in files}
    assert len(expected) > 100
    assert expected - installed == set()


def test_every_module_is_importable(run: Run) -> None:
    code = (
        "import importlib, pkgutil, ialcms\n"
        "for module in pkgutil.walk_packages(ialcms.__path__, 'ialcms.'):\n"
        "    try:\n"
        "        if not module.name.endswith('__main__'):\n"
        "            importlib.import_module(module.name)\n"
        "        print(module.name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        if error.name not in ('deepspeed', 'starlette', 'uvicorn'): raise  # of extras\n"
    )
    names = run("python", "-c", code).stdout.split()
    assert {"ialcms.shards.pack", "ialcms.launch.slurm", "ialcms.training.trainer"} <= set(names)


def test_configurations_have_names(run: Run, environment: Path) -> None:
    assert "train a separator" in run("ialcms", "--help").stdout
    listed = run("ialcms", "configs").stdout
    assert "\n  duet            The published unsupervised experiment" in listed
    assert str(environment) in listed
    shown = yaml.safe_load(run("ialcms", "configs", "show", "duet", "data.num_mixtures=3").stdout)
    assert (shown["data"]["num_mixtures"], shown["audio"]["hop"]) == (3, 256)
    assert "separator         41,567,895" in run("ialcms", "info", "duet").stdout
    wrong = run("ialcms", "configs", "show", "duett", code=2).stderr
    assert "give a YAML file or one of the names audioset, demo, demo_best, demo_solo, demo_solo_best, duet," in wrong


def test_batch_files_are_copied_and_find_the_launchers(run: Run, environment: Path, tmp_path: Path) -> None:
    submit = ["-m", "ialcms.launch.slurm", "--dry-run", "--nodes=2", "train", "duet"]
    assert "submit jobs from a folder that 'ialcms configs copy' has made" in run("python", *submit, code=2).stderr
    copied = run("ialcms", "configs", "copy", "project", cwd=tmp_path).stdout.splitlines()
    assert {"project/configs/duet.yaml", "project/configs/datasets/music.yaml", "project/slurm/job.sh"} <= set(copied)
    project = tmp_path / "project"
    assert (project / "slurm" / "train.sbatch").read_bytes() == (ROOT / "slurm" / "train.sbatch").read_bytes()
    assert "#SBATCH --nodes=2\nset -- duet\n" in run("python", *submit, cwd=project).stdout
    shell = "source slurm/job.sh; echo launchers: $launch"
    variables = {**os.environ, "SLURM_JOB_ID": "7", "IALCMS_PYTHON": str(environment / "bin" / "python")}
    variables.pop("PYTHONPATH", None)
    answer = subprocess.run(["bash", "-c", shell], cwd=project, env=variables, capture_output=True, text=True)
    assert answer.stdout == "launchers: ialcms.launch\n"


def test_data_are_indexed_with_a_named_data_set(run: Run, demo_shards: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(demo_shards.parent / "tree", tree, ignore=shutil.ignore_patterns("*.csv"))
    run("ialcms", "data", "index", str(tree), "--dataset", "music")
    lists = [(tree / f"{split}_solo_clip.csv").read_text() for split in ("train", "val", "test")]
    assert sum(map(len, map(str.split, lists))) == 15


def test_train_by_name_and_evaluate_from_elsewhere(run: Run, demo_shards: Path, tmp_path: Path) -> None:
    """One rank, then two; the shards at a relative path."""
    shutil.copytree(demo_shards, tmp_path / "shards")
    arguments = ["train", "demo", "--folder", "run", "data.shards=shards", *TINY]
    run("ialcms", *arguments, cwd=tmp_path)
    run("python", "-m", "ialcms.launch.local", "--ranks", "2", *arguments, "train.steps=4", cwd=tmp_path)
    assert (tmp_path / "run" / "finished").read_text() == "4\n"
    (tmp_path / "other").mkdir()
    run("ialcms", "evaluate", "../run", "eval.metrics=fast", cwd=tmp_path / "other")
    assert (tmp_path / "run" / "evaluation" / "test-2mix").is_dir()


def test_deepspeed_settings_are_found(run: Run) -> None:
    code = (
        "from ialcms.config import load_config\n"
        "from ialcms.engine.deepspeed_settings import read_settings\n"
        "for name in ('configs/deepspeed/zero2.json', 'zero3'):\n"
        "    config = load_config('duet', ['train.deepspeed_config=' + name])\n"
        "    print(read_settings(config, 1)['zero_optimization']['stage'])\n"
    )
    assert run("python", "-c", code).stdout.split() == ["2", "3"]


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run([*command, "--no-index"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def _imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
