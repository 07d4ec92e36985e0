"""Every ``--qbench-*`` option: its name and what argparse is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PATTERNS = "comma list of names or globs"

OPTIONS: dict[str, dict[str, Any]] = {
    "--qbench-models": {
        "metavar": "NAMES",
        "help": f"models of the grid: {_PATTERNS}; also timm:NAME, torchvision:NAME or the path of a checkpoint",
    },
    "--qbench-formats": {
        "metavar": "NAMES",
        "help": f"formats of the grid: {_PATTERNS}; a variant is written NAME+stochastic, +truncate, +away or +spec",
    },
    "--qbench-modes": {
        "metavar": "NAMES",
        "help": f"modes of the grid: {_PATTERNS}; also chunk<N> and block<N>x<M>",
    },
    "--qbench-layers": {
        "metavar": "NAMES",
        "help": f"layers of the grid: {_PATTERNS}",
    },
    "--qbench-policies": {
        "metavar": "NAMES",
        "help": f"policies that whole models are converted by: {_PATTERNS}; also the path of a YAML file",
    },
    "--qbench-linears": {
        "metavar": "NAMES",
        "help": f"linear layers that compute in low precision: {_PATTERNS}",
    },
    "--qbench-linear-sizes": {
        "metavar": "SIZES",
        "help": "comma list of OUTxIN, lengths of the weight of linear cases (default 4096x4096)",
    },
    "--qbench-linear-rows": {
        "metavar": "NUMBERS",
        "help": "comma list of rows of the input of linear cases (default 1,4,16,64,256,2048)",
    },
    "--qbench-integers": {
        "metavar": "NAMES",
        "help": f"methods by which whole models run in integers: {_PATTERNS}",
    },
    "--qbench-norms": {
        "metavar": "NAMES",
        "help": f"norm kernels, OPERATION:PROVIDER: {_PATTERNS}",
    },
    "--qbench-norm-shapes": {
        "metavar": "SHAPES",
        "help": "comma list of shapes of norm cases like 2048x4096, with as many axes as an operation takes (default: each operation's own)",
    },
    "--qbench-norm-dtypes": {
        "metavar": "NAMES",
        "help": "comma list of dtypes of norm cases (default float32,bfloat16; float16 too on accelerators)",
    },
    "--qbench-role": {
        "action": "append",
        "default": [],
        "metavar": "ROLE=FORMAT-MODE",
        "help": "quantize weight, input, act, output or statistics otherwise than layers do by default: weight=int4-chunk64, input=none, statistics=case (repeatable)",
    },
    "--qbench-data": {
        "metavar": "DATASET",
        "help": "dataset of inputs and labels in place of each model's own; random for normal noise",
    },
    "--qbench-batch": {
        "type": int,
        "default": 16,
        "metavar": "N",
        "help": "images in a reference input (default 16)",
    },
    "--qbench-images": {
        "type": int,
        "metavar": "N",
        "help": "images that a whole model is evaluated on (default: all held out)",
    },
    "--qbench-eval-batch": {
        "type": int,
        "default": 32,
        "metavar": "N",
        "help": "images in a batch of a whole model (default 32)",
    },
    "--qbench-broken-images": {
        "type": int,
        "default": 10,
        "metavar": "N",
        "help": "unreadable images that are counted and left out before it is an error (default 10)",
    },
    "--qbench-layerwise": {
        "choices": ("on", "off"),
        "default": "on",
        "help": "measure how far a converted model has drifted at each layer (default on)",
    },
    "--qbench-integer-calibration": {
        "type": int,
        "default": 64,
        "metavar": "N",
        "help": "training images that integer models are calibrated on, at most (default 64)",
    },
    "--qbench-compiled-twin": {
        "choices": ("on", "off"),
        "default": "on",
        "help": "compare integer blocks with the bfloat16 block as torch.compile makes it too, a minute each (default on)",
    },
    "--qbench-compliance": {
        "type": Path,
        "metavar": "FILE",
        "help": "YAML file that says which tensors of a converted model are checked against the grid",
    },
    "--qbench-fp32-cache": {
        "metavar": "FOLDER",
        "help": "folder of float logits kept between runs (default ~/.cache/qbench/fp32; none for no folder)",
    },
    "--qbench-seed": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "seed of inputs and stochastic rounding (default 0)",
    },
    "--qbench-device": {
        "default": "cpu",
        "metavar": "DEVICE",
        "help": "torch device that cases run on (default cpu)",
    },
    "--qbench-rounds": {
        "type": int,
        "default": 5,
        "metavar": "N",
        "help": "timed rounds a case (default 5)",
    },
    "--qbench-quantizer-shape": {
        "default": "4096x4096",
        "metavar": "AxB",
        "help": "shape of the tensor in throughput cases (default 4096x4096)",
    },
    "--qbench-cache-mb": {
        "type": int,
        "default": 1024,
        "metavar": "MB",
        "help": "bound on models and reference activations held in memory (default 1024)",
    },
    "--qbench-gates": {
        "type": Path,
        "metavar": "FILE",
        "help": "table of error gates in place of the suite's own",
    },
    "--qbench-report": {
        "choices": ("on", "off"),
        "default": "on",
        "help": "write the text reports and the HTML page of the run (default on)",
    },
    "--qbench-results": {
        "type": Path,
        "metavar": "FOLDER",
        "help": "folder of runs (default results/ beside the configuration file)",
    },
    "--qbench-run": {
        "metavar": "NAME",
        "help": "name of this run's folder (default: its time)",
    },
    "--qbench-resume": {
        "metavar": "RUN",
        "help": "go on with a run: measure the cases that it has not finished; latest for the last one",
    },
    "--qbench-plugin": {
        "action": "append",
        "default": [],
        "type": Path,
        "metavar": "FILE",
        "help": "load a plugin from one Python file (repeatable; ini key qbench_plugins)",
    },
    "--qbench-disable-plugin": {
        "action": "append",
        "default": [],
        "metavar": "NAME",
        "help": "do not load this plugin module or distribution (repeatable)",
    },
    "--qbench-strict-plugins": {
        "action": "store_true",
        "help": "stop where any plugin fails to load",
    },
}
