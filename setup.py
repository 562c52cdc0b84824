"""Packaging. torch, torchaudio and torchvision come from the package index in matching minor versions: torchaudio
and torchvision do not load beside another (or a CPU-only) build of torch."""

import re
import shutil
import warnings
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.errors import SetupError

# Folders of the checkout that a wheel has inside the package: as names beside ialcms they would be anybody's.
INSIDE = ("shards", "launch", "configs", "slurm")
CHECKOUT = find_packages(include=["ialcms", "ialcms.*", "shards", "shards.*", "launch", "launch.*"])
DATA = ("configs", "configs.datasets", "configs.deepspeed", "slurm")


class BuildWheel(build_py):
    """A wheel's modules import what was moved by its name there: `from shards.pack` becomes `from ialcms.shards.pack`.

    Every such import stands on a line of its own, as `from ... import`; `import shards` is refused.
    """

    def run(self):
        if not self.editable_mode:  # what an earlier build left may have been deleted since
            self.execute(_remove, [Path(self.build_lib, "ialcms")])
        super().run()

    def build_module(self, module, module_file, package):
        written, copied = super().build_module(module, module_file, package)
        path = Path(written)
        text = path.read_text(encoding="utf-8")
        if re.search(r"^\s*import (shards|launch)\b", text, re.MULTILINE):
            raise SetupError(f"{module_file}: write 'from PACKAGE import MODULE' for modules of shards and launch")
        moved = re.sub(r"^(\s*from )((shards|launch)(\.[\w.]+)? import )", r"\1ialcms.\2", text, flags=re.MULTILINE)
        path.write_text(moved, encoding="utf-8")
        return written, copied


class EditInPlace(editable_wheel):
    """`pip install --editable` uses the checkout as it lies."""

    def finalize_options(self):
        self.distribution.packages, self.distribution.package_dir = CHECKOUT, {}
        super().finalize_options()

    def run(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*Editable installation")  # a box of stars, of no use to the user
            super().run()


def _remove(folder):
    shutil.rmtree(folder, ignore_errors=True)


setup(
    name="ialcms",
    version="0.1.0",
    description="Distributed training of picture-guided sound separation (IAL-CMS) on WebDataset shards",
    python_requires=">=3.11",
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
    packages=[name if name.startswith("ialcms") else f"ialcms.{name}" for name in (*CHECKOUT, *DATA)],
    package_dir={f"ialcms.{name}": name for name in INSIDE},
    package_data={
        "ialcms.report": ["templates/*"],
        "ialcms.configs": ["*.yaml"],
        "ialcms.configs.datasets": ["*.yaml", "*.txt"],
        "ialcms.configs.deepspeed": ["*.json"],
        "ialcms.slurm": ["*.sbatch", "*.sh"],
    },
    cmdclass={"build_py": BuildWheel, "editable_wheel": EditInPlace},
    install_requires=[
        "torch==2.11.*",  # networks, torchrun, DDP, distributed checkpoints
        "torchaudio==2.11.*",  # resampling
        "torchvision==0.26.*",  # ImageNet ResNet-18, Faster R-CNN
        "webdataset>=1.0,<2",  # writing and streaming tar shards
        "numpy>=1.26",  # arrays, counter-based random numbers of the data plan
        "scipy>=1.11",  # filters of the demo's sounds; mir_eval needs it too
        "soundfile>=0.12",  # FLAC and WAV in memory (torchaudio 2.11 itself no longer decodes)
        "av>=18,<19",  # reading and writing videos (PyAV); 19 has no metadata_errors, for files with broken names
        "pillow>=10.1",  # JPEG and PNG, drawing the demo's pictures
        "mir_eval>=0.7,<0.9",  # BSS Eval v3; its separation module is gone after 0.8
        "tensorboard>=2.15",  # curves, sounds and pictures of a run
        "pyyaml>=6",  # configuration files
        "tqdm>=4.66",  # progress bars
        "jinja2>=3.1",  # templates of the listening page
        "shtab>=1.7",  # completion of the command line in shells
        "matplotlib>=3.8",  # colour map of heat maps and spectrograms
    ],
    extras_require={
        # the page of `ialcms listen`: answers that stream uploads to disk; a server in Python alone
        "listen": ["starlette>=0.46,<2", "uvicorn>=0.30"],
        "deepspeed": ["deepspeed>=0.19"],  # ZeRO engines; install with DS_BUILD_OPS=0 --no-build-isolation
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # half of the tests' time is waiting for processes to start
            "pytest-timeout>=2.3",  # a hanging rank must not hang the tests
            "psutil>=5.9",  # finds the ranks of a run that a test kills
            "playwright>=1.49",  # drives Debian's Chromium in the report's tests
            "starlette>=0.46,<2",  # as in the extra `listen`, for its tests
            "uvicorn>=0.30",
            "import-linter>=2",  # holds the order of the packages
            "ruff==0.17.*",
            "mypy==2.4.*",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["ialcms=ialcms.__main__:run"]},
)
