"""The Dockerfile, read as text: what it copies is there, who it runs as, what it leaves behind."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from pathlib import Path

import pytest

from qbench_suite.pytest_plugin.option_table import OPTIONS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "how-to" / "docker.md").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of each, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return [(name, arguments) for name, arguments in pairs]


def arguments(name: str) -> list[str]:
    return [given for instruction, given in instructions() if instruction == name]


def environment() -> dict[str, str]:
    words = [word for given in arguments("ENV") for word in shlex.split(given)]
    return dict(word.split("=", 1) for word in words)


def ignored(path: str) -> bool:
    """Whether the build context lacks ``path``; the last pattern that matches decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        parts = path.split("/")
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        inside = pattern.startswith("**/") and fnmatch.filter(parts, pattern.removeprefix("**/"))
        if line and not line.startswith("#") and (inside or fnmatch.filter(heads, pattern)):
            verdict = not line.startswith("!")
    return verdict


def test_base_has_a_pinned_tag_with_cuda() -> None:
    (base,) = arguments("FROM")
    assert re.fullmatch(r"pytorch/pytorch:\d+\.\d+\.\d+-cuda\d+\.\d+-cudnn\d+-runtime", base)
    needed = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert needed
    version = base.partition(":")[2].partition("-")[0]
    assert [int(n) for n in version.split(".")] >= [int(n) for n in needed[1].split(".")]


def test_user_is_not_root() -> None:
    names = [name for name, _ in instructions()]
    assert arguments("USER") == ["qbench"]
    assert "RUN" not in names[names.index("USER") :]
    assert any("useradd" in run and " qbench" in run for run in arguments("RUN"))


def test_results_and_data_are_volumes_that_can_be_written() -> None:
    (volumes,) = arguments("VOLUME")
    folders = json.loads(volumes)
    assert set(folders) == {"/cache", "/data", "/results"}
    (made,) = (run for run in arguments("RUN") if "chmod 1777" in run)
    assert all(folder in made.partition("chmod 1777")[2] for folder in folders)
    given = environment()
    assert (given["QBENCH_DATA"], given["QBENCH_IMAGENET"]) == ("/data", "/imagenet")
    assert "--qbench-results=/results" in given["PYTEST_ADDOPTS"].split()
    assert given["HOME"] == "/cache"


@pytest.mark.parametrize("given", arguments("COPY"))
def test_sources_exist_and_reach_the_builder(given: str) -> None:
    *sources, _ = given.split()
    for source in sources:
        assert (ROOT / source).exists()
        assert not ignored(source)


def test_everything_pytest_and_pip_need_is_copied() -> None:
    copied = {source for given in arguments("COPY") for source in given.split()[:-1]}
    assert {"pyproject.toml", "README.md", "tox.ini", "qbench_suite", "plugins", "cases"} <= copied


@pytest.mark.parametrize(
    "path",
    [
        ".git",
        "tests",
        "docs",
        "results",
        ".tox",
        ".venv",
        "build",
        "qbench_suite/__pycache__/cli.cpython-311.pyc",
    ],
)
def test_context_is_small(path: str) -> None:
    assert ignored(path)


def test_nothing_is_left_of_apt_and_pip() -> None:
    for run in arguments("RUN"):
        if "apt-get install" in run:
            assert "--no-install-recommends" in run
            assert run.index("apt-get update") < run.index("apt-get install")
            assert run.rstrip().endswith("rm -rf /var/lib/apt/lists/*")
        if "pip install" in run:
            assert "--no-cache-dir" in run


def test_the_page_runs_what_the_image_has() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    runs = [shlex.split(line) for line in lines if line.startswith("docker run")]
    assert any(line.startswith("docker build") for line in lines)
    assert runs
    volumes = {*json.loads(arguments("VOLUME")[0]), "/imagenet"}
    for words in runs:
        mounts = [words[at + 1].split(":") for at, word in enumerate(words) if word == "-v"]
        assert {mount[1] for mount in mounts} <= volumes
        command = words[words.index("qbench_suite") + 1 :]
        assert command[0] in {"pytest", "qbench", "python"}
        named = {word.partition("=")[0] for word in command if word.startswith("--qbench")}
        assert named <= set(OPTIONS)
        assert all((ROOT / word).exists() for word in command if word.startswith("cases/"))
    full = [
        words for words in runs if "imagenet-val" in words or "--qbench-data=imagenet-val" in words
    ]
    assert any("--gpus" in words for words in full)
