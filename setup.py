"""Packaging. torch, torchaudio and torchvision come from the package index in matching minor versions: torchaudio
and torchvision do not load beside another (or a CPU-only) build of torch."""

from setuptools import find_packages, setup

setup(
    name="ialcms",
    version="0.1.0",
    description="Distributed training of picture-guided sound separation (IAL-CMS) on WebDataset shards",
    python_requires=">=3.11",
    packages=find_packages(include=["ialcms", "ialcms.*", "shards", "shards.*", "launch", "launch.*"]),
    package_data={"ialcms.report": ["templates/*"]},
    install_requires=[
        "torch==2.11.*",  # networks, torchrun, DDP, distributed checkpoints
        "torchaudio==2.11.*",  # resampling
        "torchvision==0.26.*",  # ImageNet ResNet-18, Faster R-CNN
        "webdataset>=1.0,<2",  # writing and streaming tar shards
        "numpy>=1.26",  # arrays, counter-based random numbers of the data plan
        "scipy>=1.11",  # filters of the demo's sounds; mir_eval needs it too
        "soundfile>=0.12",  # FLAC and WAV in memory (torchaudio 2.11 itself no longer decodes)
        "av>=18",  # reading and writing videos (PyAV)
        "pillow>=10.1",  # JPEG and PNG, drawing the demo's pictures
        "mir_eval>=0.7,<0.9",  # BSS Eval v3; its separation module is gone after 0.8
        "tensorboard>=2.15",  # curves, sounds and pictures of a run
        "pyyaml>=6",  # configuration files
        "tqdm>=4.66",  # progress bars
        "jinja2>=3.1",  # templates of the listening page
        "matplotlib>=3.8",  # colour map of heat maps and spectrograms
    ],
    extras_require={
        "deepspeed": ["deepspeed>=0.19"],  # ZeRO engines; install with DS_BUILD_OPS=0 --no-build-isolation
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # half of the tests' time is waiting for processes to start
            "pytest-timeout>=2.3",  # a hanging worker must not hang the tests
            "psutil>=5.9",  # finds the workers of a run that a test kills
            "playwright>=1.49",  # drives Debian's Chromium in the report's tests
            "import-linter>=2",  # holds the order of the packages
            "ruff==0.17.*",
            "mypy==2.4.*",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["ialcms=ialcms.cli:main"]},
)
