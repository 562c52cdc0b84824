"""The exported separator: the same stems, safe to load, without DeepSpeed and TensorBoard; as a program; faults."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ialcms.cli import main
from ialcms.engine import Ranks
from ialcms.evaluation.evaluate import evaluate
from ialcms.evaluation.result_files import read_results
from ialcms.inference import PROTOCOLS, load_model
from ialcms.inference.export import export_program, export_weights
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import find_checkpoint
from tests.inference.test_separate_file import write_video
from tests.support import ROOT
from tests.support.configuration import SMALL
from tests.support.evaluation import evaluation_config, make_separator, make_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_small_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def exported(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "new" / "duet.pt"
    export_weights(run.path, out)
    return out


def pictures(count: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def window(seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(310, generator=torch.Generator().manual_seed(seed))


class TestWeights:
    def test_the_file_is_the_separator_and_what_it_needs(self, exported: Path, run: RunFolder) -> None:
        content = torch.load(exported, weights_only=True)
        expected = make_separator(evaluation_config()).state_dict()
        assert content["separator"].keys() == expected.keys()  # no critic, no optimizer
        assert all(torch.equal(content["separator"][name], value) for name, value in expected.items())
        assert content["step"] == 7
        assert content["config"]["audio"]["sample_rate"] == 1_000
        assert str(run.path.parent).encode() not in exported.read_bytes()  # no paths of the machine that trained
        assert [path.name for path in exported.parent.iterdir()] == ["duet.pt"]

    def test_all_sources_are_the_same_model(self, exported: Path, run: RunFolder) -> None:
        wave, objects = 0.1 * torch.randn(2, 900), pictures(2)
        stems = [
            load_model(source, "cpu").separate(wave, 2_000, objects)
            for source in (run.path, find_checkpoint(run.path), exported)
        ]
        assert stems[0].shape == (2, 2, 900)
        assert stems[0].abs().max() > 0.001
        assert torch.equal(stems[0], stems[1])
        assert torch.equal(stems[0], stems[2])
        assert load_model(exported).step == 7

    def test_numpy_arrays_and_several_pictures(self, exported: Path) -> None:
        model = load_model(exported, "cpu")
        wave, objects = 0.1 * torch.randn(2, 900), pictures(2).unsqueeze(1) // 2
        objects = torch.cat([objects, objects + 4, objects + 8], dim=1)  # three of each, which are alike
        stems = model.separate(wave, 2_000, objects)
        assert torch.equal(stems, model.separate(wave.numpy(), 2_000, objects.numpy()))
        assert torch.equal(stems, model.separate(wave.double().numpy(), 2_000, objects.numpy()))
        assert not torch.allclose(stems, model.separate(wave, 2_000, objects[:, 0]), rtol=0, atol=1e-6)
        assert stems.abs().sum(0).max() < 2 * wave.abs().max()  # at the level of the mix

    def test_an_exported_file_is_evaluated(self, run: RunFolder, exported: Path, tmp_path: Path) -> None:
        """As the checkpoint that it was made of; one of other networks is refused."""
        config = run.read_config(["eval.metrics=fast", "eval.examples=0", "eval.draws=1"])
        scores = []
        for number, source in enumerate((run.path, exported)):
            evaluate(config, source, Ranks(), out=tmp_path / str(number))
            scores.append(read_results(tmp_path / str(number))[1])
        assert scores[0] == scores[1]
        wider = run.read_config(["model.unet.width=8"])
        with pytest.raises(ValueError, match=r"duet\.pt is of another configuration: model\.unet\.width was 4, now 8"):
            evaluate(wider, exported, Ranks(), out=tmp_path / "wider")

    def test_command_line(self, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", str(find_checkpoint(run.path)), "--out", str(tmp_path / "a.pt")]) == 0
        assert "separator of step 7" in capsys.readouterr().out
        assert load_model(tmp_path / "a.pt", "cpu").step == 7

    @pytest.mark.parametrize(
        ("wave", "objects", "message"),
        [
            (
                torch.zeros(2, 900),
                torch.zeros(2, 3, 20, 20, dtype=torch.uint8),
                r"give \(objects, 3, 16, 16\), or \(objects, pictures, 3, 16, 16\), of uint8",
            ),
            (torch.zeros(2, 900), torch.zeros(2, 3, 16, 16), "torch.float32; give .* of uint8"),
            (torch.zeros(900), pictures(1), r"give \(channels, samples\) of floats"),
        ],
    )
    def test_shapes(self, exported: Path, wave: torch.Tensor, objects: torch.Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_model(exported, "cpu").separate(wave, 1_000, objects)


class TestProgram:
    @pytest.mark.parametrize("protocol", ["best", "published"])
    def test_the_same_stems_as_from_the_network(
        self, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
    ) -> None:
        out = tmp_path / "duet.pt2"
        options = ["--torch-export", "--objects", "3", "--protocol", protocol]
        assert main(["export", str(run.path), "--out", str(out), *options]) == 0
        printed = capsys.readouterr().out
        assert "mix (310,) float32 at 1000 Hz, pictures (3, 3, 16, 16) uint8" in printed
        assert "stems (3, 310) float32, heat maps (3, 2, 2)" in printed
        assert [path.name for path in tmp_path.iterdir()] == ["duet.pt2"]
        program = torch.export.load(out).module()
        model = load_model(run.path, "cpu")
        single = replace(PROTOCOLS[protocol], pictures=1)
        for seed in (1, 2):
            mix, objects = window(seed), pictures(3, seed)
            stems, maps = program(mix, objects)
            assert not stems.requires_grad
            expected = model.separate(mix[None], 1_000, objects, protocol=single)[:, 0]
            assert expected.abs().max() > 0.01
            torch.testing.assert_close(stems, expected, atol=1e-5, rtol=1e-4)
            with torch.inference_mode():
                output = model.separator(mix[None], objects[None, :, None])
            torch.testing.assert_close(maps, output.localisation[0, :, 0], atol=1e-6, rtol=1e-5)

    def test_masks_that_are_shares_stay_shares(self, run: RunFolder, tmp_path: Path) -> None:
        """In a run, in the file of its weights, and in the program."""
        shares = make_small_run(tmp_path, model={**SMALL["model"], "masks": "shares"})
        export_weights(shares.path, tmp_path / "weights.pt")
        plain = replace(PROTOCOLS["published"], pictures=1)
        export_program(shares.path, tmp_path / "program.pt2", 2, protocol=plain)
        mix, objects = window(1), pictures(2)
        stems, exported, free = (
            load_model(source, "cpu").separate(mix[None], 1_000, objects, protocol=plain)[:, 0]
            for source in (shares.path, tmp_path / "weights.pt", run.path)
        )
        assert torch.equal(stems, exported)
        assert not torch.allclose(stems, free, atol=0.01 * float(free.abs().max()))
        programs_stems, _ = torch.export.load(tmp_path / "program.pt2").module()(mix, objects)
        torch.testing.assert_close(programs_stems, stems, atol=1e-5, rtol=1e-4)

    def test_faults(self, run: RunFolder, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"is a \.pt2 file; name it so"):
            export_program(run.path, tmp_path / "duet.pt")
        with pytest.raises(ValueError, match=r"add --torch-export, or name it \.pt"):
            export_weights(run.path, tmp_path / "duet.pt2")
        with pytest.raises(ValueError, match="at least one object"):
            export_program(run.path, tmp_path / "duet.pt2", 0)
        assert not list(tmp_path.iterdir())


class _Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


class TestFaults:
    def fails(self, file: Path, capsys: pytest.CaptureFixture[str], message: str) -> None:
        """As a user sees it: one line, exit code 2, nothing written."""
        values = ["--boxes", "0,0,9,9", "--out", str(file.parent / "out")]
        assert main(["separate", "none.mp4", "--checkpoint", str(file), *values]) == 2
        error = capsys.readouterr().err
        assert error.startswith("ialcms: error: ")
        assert error.count("\n") == 1
        assert message in error
        assert not (file.parent / "out").exists()

    def test_files(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        file, whole = tmp_path / "x.pt", exported.read_bytes()
        self.fails(file, capsys, "does not exist; give a run's folder, a checkpoint's, or a file of 'ialcms export'")
        for cut in (0, 1_000, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:cut])
            self.fails(file, capsys, "is no whole file of 'ialcms export'")
        position = len(whole) // 2
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        self.fails(file, capsys, "is damaged (the checksum of ")
        torch.save({"state_dict": {"a": torch.zeros(1)}}, file)
        self.fails(file, capsys, "is a file of weights, not a run's folder; make one of it: ialcms import ")
        content = torch.load(exported, weights_only=True)
        torch.save({**content, "version": 99, "program": "7.0"}, file)
        self.fails(file, capsys, "has format ialcms-separator 99, this program reads 1; use the program version that")
        del content["separator"]["mask_bias"]
        torch.save(content, file)
        self.fails(file, capsys, "do not fit their configuration")
        torch.save({**content, "evil": _Evil()}, file)
        self.fails(file, capsys, "is no file of 'ialcms export'")
        file.write_bytes(pickle.dumps(_Evil()))
        self.fails(file, capsys, "is no whole file")
        assert not (tmp_path / "executed").exists()

    def test_sources_of_an_export(self, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out" / "x.pt"
        for source, message in (
            (tmp_path, "is no run's folder and no checkpoint's"),
            (tmp_path / "none", "does not exist"),
        ):
            assert main(["export", str(source), "--out", str(out)]) == 2
            assert message in capsys.readouterr().err
        assert main(["export", str(run.path), "--out", str(tmp_path)]) == 2
        assert "is a folder; name a file" in capsys.readouterr().err
        assert not out.exists()

    def test_device(self, exported: Path) -> None:
        with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
            load_model(exported, "abacus")


_ALONE = """
import sys

class Without:
    missing = {"deepspeed", "tensorboard"}

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.missing else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def alone(code: str, *arguments: str) -> str:
    """Run a program where what only training needs is missing."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ALONE + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


class TestWithoutTrainingsDependencies:
    def test_a_video_is_separated_from_the_command_line(self, exported: Path, tmp_path: Path) -> None:
        video = write_video(tmp_path / "duet.mkv", seconds=1.5)
        arguments = ["separate", str(video), "--checkpoint", str(exported), "--device", "cpu"]
        boxes = ["--boxes", "bell=2,2,30,30", "30,5,60,40"]
        printed = alone(
            """
            from ialcms.cli import main
            code = main(sys.argv[1:])
            assert not {"deepspeed", "tensorboard"} & set(sys.modules)
            sys.exit(code)
            """,
            *arguments,
            "--out",
            str(tmp_path / "alone"),
            *boxes,
        )
        names = ["1-bell.wav", "2-object.wav", "remainder.wav", "1-bell.mp4", "2-object.mp4"]
        assert [Path(line).name for line in printed.split()] == [*names, "listen.html"]
        assert main([*arguments, "--out", str(tmp_path / "whole"), *boxes]) == 0
        for name in names[:3]:
            ours, theirs = (soundfile.read(tmp_path / position / name)[0] for position in ("alone", "whole"))
            assert abs(ours).max() > 0.001
            np.testing.assert_allclose(ours, theirs, atol=1e-6)

    def test_a_program_runs(self, run: RunFolder, tmp_path: Path) -> None:
        export_program(run.path, tmp_path / "duet.pt2", 2)
        code = """
            import torch
            program = torch.export.load(sys.argv[1]).module()
            stems, maps = program(torch.randn(310), torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
            print(tuple(stems.shape), tuple(maps.shape))
            assert "ialcms" not in sys.modules
        """
        assert alone(code, str(tmp_path / "duet.pt2")) == "(2, 310) (2, 2, 2)\n"
