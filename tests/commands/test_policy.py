"""``qbench policy``: what it shows of a policy and a model, what it refuses, and that it exits so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qbench_suite.cli import main
from qbench_suite.commands.policy import print_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "policies.md").read_text(encoding="utf-8")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("format: int8\nweight_mode: channel\nlast_layer: none\n", encoding="utf-8")
    return path


def table(text: str) -> dict[str, list[str]]:
    """The cells of each line of aligned text, by the first one."""
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_show_without_model_says_what_the_policy_says(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert main(["policy", "show", str(file)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["weight"] == ["int8", "channel", "absmax"]
    assert rows["input"] == ["int8", "tensor", "absmax"]
    assert rows["act"] == ["float"]
    assert rows["scales"] == ["dynamic"]
    assert rows["last_layer"] == ["float"]
    assert "first_layer" not in rows


def test_show_with_model_goes_layer_by_layer(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert main(["policy", "show", str(file), "--model", "vit"]) == 0
    out = capsys.readouterr().out
    rows = table(out)
    assert rows["layer"][:4] == ["type", "multiply-adds %", "weight", "input"]
    assert rows["patch_embed.proj"][0] == "Conv2d"
    assert rows["patch_embed.proj"][2:] == ["int8-channel", "int8-tensor"]
    assert rows["head"][-1] == "left float by the policy: last_layer"
    assert rows["blocks.0.norm1"] == ["LayerNorm", "outside the policy's scope: multiply_add"]
    assert all(line == line.rstrip() for line in out.splitlines())
    shares = [float(row[1]) for row in rows.values() if len(row) > 2 and row[1][:1].isdigit()]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    total = re.search(r"with ([0-9.]+) % of [0-9,]+ multiply-adds; ([0-9.]+) bits", out)
    assert total
    assert float(total[1]) == pytest.approx(100 - float(rows["head"][1]), abs=0.1)
    assert 8 < float(total[2]) < 12  # float biases and norms, scales of channels


def test_show_says_how_weights_are_rounded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "rounded.yaml"
    file.write_text(
        "scope: all\nweight_format: int4\nweight_rounding: gptq\n"
        "layers:\n  head: {weight_rounding: nearest}\n  blocks.0.mlp.fc1: {weight_rounding: adaround}\n"
    )
    assert main(["policy", "show", str(file)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["weight rounding"] == ["gptq"]
    assert rows["layers: blocks.0.mlp.fc1"] == ["weight=int4-tensor/adaround"]
    assert rows["layers: head"] == ["weight=int4-tensor"]
    assert main(["policy", "show", str(file), "--model", "vit"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["layer"][2] == "weight"
    assert rows["layer"][-2:] == ["rounding", "why float"]
    assert rows["blocks.0.mlp.fc1"][-1] == "adaround"
    assert rows["blocks.0.mlp.fc2"][-1] == "gptq"
    assert rows["head"][-1] == "int4-tensor"
    assert rows["norm"][-1] == "nearest: what it reads is not multiplied with one weight"


def test_show_says_which_layers_a_kernel_computes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "kernels.yaml"
    file.write_text(
        "weight_format: int8\nweight_mode: channel\nkernel: w8a16\n"
        "layers:\n  head: {kernel: none}\n  blocks.0.mlp.fc1: {weight_mode: tensor}\n"
    )
    assert main(["policy", "show", str(file)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["kernel"] == ["w8a16"]
    assert rows["layers: blocks.0.mlp.fc1"] == ["weight=int8-tensor kernel=w8a16"]
    assert rows["layers: head"] == ["weight=int8-channel"]
    assert main(["policy", "show", str(file), "--model", "vit"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["layer"][-2:] == ["kernel", "why float"]
    assert rows["blocks.0.mlp.fc2"][-1] == "w8a16"
    assert rows["head"][-1] == "int8-channel"
    assert rows["blocks.0.mlp.fc1"][-1] == (
        "emulated: its scales lie along the inputs of each output; those of this layer are tensor"
    )
    assert rows["patch_embed.proj"][-1] == "emulated: kernels compute linear layers; this is Conv2d"
    file.write_text("weight_format: int8\nkernel: w8a16\n")
    assert main(["policy", "check", str(file)]) == 0
    assert main(["policy", "check", str(file), "--model", "vit"]) == 2
    assert "line 2: a kernel computes a layer of the model" in capsys.readouterr().err


def test_show_of_the_float_policy_reaches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "fp32", "--model", "vit"]) == 0
    out = capsys.readouterr().out
    assert "0 of " in out
    assert "with 0.0 % of" in out
    assert "32.00 bits a parameter" in out


def test_a_folded_norm_says_where_it_went(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "fold.yaml"
    path.write_text("format: int8\nfold_batch_norm: true\n", encoding="utf-8")
    assert main(["policy", "show", str(path), "--model", "resnet"]) == 0
    assert "folded into layer1.0.conv1" in capsys.readouterr().out


def test_list_shows_those_of_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "list"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["mxfp4"][:2] == ["yes", "MXFP4 (E2M1), 32 elements under an E8M0 scale"]
    assert main(["policy", "list", "--disable-plugin", "qbench_policies"]) == 0
    assert "mxfp4" not in capsys.readouterr().out


def test_check_says_sound(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert main(["policy", "check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: sound\n"
    assert main(["policy", "check", "mxfp8", "--model", "vit"]) == 0
    assert capsys.readouterr().out == "mxfp8: sound, and fits vit\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("formt: int8\n", [], "line 1: keys of a policy are known ones"),
        ("format: int9\n", [], "line 1: a format is called by a registered name"),
        ("format: int8\nlayers:\n  heat: none\n", ["--model", "vit"], "line 3: a pattern matches"),
        (
            "format: int8\ntypes:\n  softmax: {act_format: int8}\n",
            ["--model", "vit"],
            "line 3: a pattern matches a type of site of the model; got 'softmax', which matches none; "
            "softmax is computed within Attention here: write the entry for that type.",
        ),
        (
            "format: int8\ntypes:\n  linear: none\n",
            ["--model", "vit"],
            "line 3: a pattern matches a type of site of the model; got 'linear', which matches none; "
            "did you mean Linear?",
        ),
        ("format: int8\n", ["--model", "vitt"], "Did you mean vit"),
    ],
)
@pytest.mark.parametrize("action", ["check", "show"])
def test_a_mistake_is_a_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    action: str,
    text: str,
    options: list[str],
    message: str,
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    assert main(["policy", action, str(path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "text",
    [
        "format: int8\ntypes:\n  linear: none\n",
        "format: int8\ntypes:\n  softmax: {act_format: int8}\n",
        "format: int8\nlast_layer: {format: int4}\nexclude: ['head*']\n",
    ],
)
def test_a_policy_that_does_not_fit_reads_as_the_manual_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    assert main(["policy", "check", str(path), "--model", "vit"]) == 2
    error = capsys.readouterr().err.strip()
    assert error[error.index("my.yaml, line") :] in PAGE.splitlines()


def test_an_unknown_policy_and_a_missing_file_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "mxfp5"]) == 2
    assert "Did you mean mxfp" in capsys.readouterr().err
    assert main(["policy", "show", "nowhere/x.yaml"]) == 2
    assert "nowhere/x.yaml: a policy is a YAML file" in capsys.readouterr().err


def test_the_worked_example_of_the_manual_fits_the_model_it_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert example
    path = tmp_path / "my_policy.yaml"
    path.write_text(example[1], encoding="utf-8")
    assert main(["policy", "show", str(path), "--model", "vit"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["blocks.0.mlp.fc1"][2:] == ["fp8_e4m3-mx32", "fp8_e4m3-mx32"]
    assert rows["blocks.0.norm1"][1:] == ["int8-tensor", "fp8_e4m3-mx32"]
    assert rows["patch_embed.proj"][2:] == ["int8-channel", "int8-token"]
    assert rows["blocks.1.attn.qkv"][-1] == "excluded by the policy: blocks.1.attn*"
    assert rows["head"][-1] == "left float by the policy: last_layer"


def test_a_terminal_gets_a_table_with_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table([("layer", "why"), ("a[0]", "[bold]x")])
    out = capsys.readouterr().out
    assert "a[0]" in out
    assert "[bold]x" in out
