"""Kernels built by the system's C++ compiler, and launched on the emulated device, a fiber a thread."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qbench_suite.errors import KernelError
from qbench_suite.gpu.texts import INCLUDE, texts
from qbench_suite.gpu.toolkit import headers
from qbench_suite.native.cache import build_once, cache_folders
from qbench_suite.native.compiler import Compiler, find_compiler

#: How many along x, y and z.
Shape = tuple[int, int, int]

#: Contraction would make the rounding of a kernel depend on the processor; and kernels read the bytes
#: of one type as another.
_FLAGS = ("-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden", "-w")
_RUNTIME = Path(__file__).parent / "host" / "launch.cpp"
_MESSAGE_BYTES = 2048
#: Precompiled headers that this process has built or checked: that takes a tenth of a second.
_whole: set[Path] = set()


@dataclass(frozen=True)
class Unit:
    """A translation unit of kernels: ``text``, after the header of the suite named ``prelude``.

    ``stem``: what a person finds its file by. ``digest`` stands for the files that ``text`` includes.
    ``link``: flags of the linker.
    """

    stem: str
    prelude: str
    text: str
    digest: str
    folders: tuple[Path, ...]
    flags: tuple[str, ...] = ("-O1",)
    link: tuple[str, ...] = ()

    def load(self) -> ctypes.CDLL:
        """Its library: from the cache where it is there and whole, else built now.

        Raises:
            KernelError: there is no compiler, it refuses the source, or nothing can be kept or loaded.
        """
        compiler = find_compiler()
        if compiler is None:
            raise KernelError(
                "the emulator compiles kernels with a C++ compiler; none was found; "
                "install g++, or name one in CXX."
            )
        reason: Exception | None = None
        for folder in cache_folders("emulator"):
            try:
                return self._in(folder, compiler)
            except (
                OSError,
                NotImplementedError,
            ) as error:  # the latter: a filesystem without locks
                reason = error
        raise KernelError(
            "the emulator keeps compiled kernels in a folder; none can be written and loaded from: "
            f"{reason}; name one in QBENCH_CACHE."
        )

    def _in(self, folder: Path, compiler: Compiler) -> ctypes.CDLL:
        key = _digest(self.text, self.digest, *self.link, *self._environment(compiler))
        target = folder / f"{self.stem}-{key}.so"

        def build(part: Path) -> dict[str, str]:
            written = part.with_suffix(".cpp")
            written.write_text(self.text, encoding="utf-8")
            options = (*self._options, *self.link, "-include", str(self._prelude(folder, compiler)))
            try:
                if reason := compiler.build(written, part, options, ""):
                    raise KernelError(
                        f"a kernel is C++ that a host compiler takes too; {self.stem} is not: {reason}; "
                        "correct it, and keep what only a device has behind #ifndef QB_HOST_EMU."
                    )
            finally:
                written.unlink(missing_ok=True)
            return {"compiler": compiler.version}

        build_once(target, build)
        return ctypes.CDLL(str(target))

    def _prelude(self, folder: Path, compiler: Compiler) -> Path:
        """The header to include first, next to it its precompiled form: parsing it takes longest."""
        if "clang" in compiler.version:
            return INCLUDE / self.prelude
        stem = f"{Path(self.prelude).stem}-{_digest(*self._environment(compiler))}.h"
        made = folder / f"{stem}.gch"
        if made in _whole and made.is_file():
            return folder / stem

        def build(part: Path) -> dict[str, str]:
            # Where the compiler finds that the precompiled form does not fit, it takes this instead.
            (folder / stem).write_text(f'#include "{INCLUDE / self.prelude}"\n', encoding="utf-8")
            if reason := compiler.precompile(folder / stem, part, self._options):
                raise KernelError(
                    "the emulator is C++17 that g++ 9 and clang++ 10 compile; it does not compile "
                    f"here: {reason}; name a newer compiler in CXX."
                )
            return {"compiler": compiler.version}

        build_once(made, build)
        _whole.add(made)
        return folder / stem

    @property
    def _options(self) -> tuple[str, ...]:
        return (*_FLAGS, *self.flags, *(f"-I{folder}" for folder in (*self.folders, INCLUDE)))

    def _environment(self, compiler: Compiler) -> tuple[str, ...]:
        """What the machine code depends on beside the unit itself."""
        return (*_FLAGS, *self.flags, *compiler.command, compiler.version, _headers(self.prelude))


@dataclass(frozen=True)
class HostKernel:
    """A kernel of a library that is loaded: the one of that number."""

    library: ctypes.CDLL
    number: int

    @property
    def path(self) -> str:
        """The file that the library was loaded from."""
        return str(self.library._name)

    @property
    def argument_bytes(self) -> int:
        """Size of the struct that a CUDA kernel takes."""
        size = self.library[f"qb_bytes_{self.number}"]
        size.restype = ctypes.c_size_t
        return int(size())

    def launcher(self, shared_limit: int, *, races: bool = False) -> Callable[..., str]:
        """``launch(arguments, grid, block, ...)``, which gives what went wrong, or "".

        ``arguments``: a pointer for the kernel. ``shared_limit``: the most bytes of shared memory that
        a block may have, static arrays included. ``races``: look for them, in a library that was built
        so; places are offsets in it, as ``{0x1f}``. One launch runs at a time in a process; Python's other
        threads go on.
        """
        run = _runtime()
        bind, body = (
            _address(self.library, name) for name in ("qb_bind", f"qb_kernel_{self.number}")
        )

        def launch(
            arguments: object,
            grid: Shape,
            block: Shape,
            cluster: int = 1,
            shared_bytes: int = 0,
            *,
            cooperative: bool = False,
        ) -> str:
            message = ctypes.create_string_buffer(_MESSAGE_BYTES)
            sizes = (ctypes.c_uint * 11)(
                *grid, *block, cluster, shared_bytes, cooperative, shared_limit, races
            )
            if run(bind, body, arguments, sizes, message, _MESSAGE_BYTES):
                return message.value.decode(errors="replace")
            return ""

        return launch


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(library[name], ctypes.c_void_p).value
    assert address is not None
    return address


@functools.cache
def _runtime(*flags: str) -> Callable[..., int]:
    """``qb_launch`` of launch.cpp."""
    digest = _digest(*texts(_RUNTIME).values())
    unit = Unit(
        "emulator",
        "host_threads.h",
        f'#include "{_RUNTIME.name}"\n',
        digest,
        (_RUNTIME.parent,),
        ("-O2", *flags),
    )
    launch = unit.load().qb_launch
    pointer = ctypes.c_void_p
    launch.argtypes = [pointer, pointer, pointer, pointer, ctypes.c_char_p, ctypes.c_size_t]
    launch.restype = ctypes.c_int
    return launch


@functools.cache
def _headers(prelude: str) -> str:
    """Digest of the headers that stand in for a device, and of NVIDIA's version."""
    parts = [*texts(INCLUDE / prelude).values()]
    parts += [path.read_text(encoding="utf-8") for path in sorted((INCLUDE / "host").rglob("*.h"))]
    if found := headers():
        parts += [(found / name).read_text() for name in ("cuda_fp16.hpp", "cuda_fp8.hpp")]
    return _digest(*parts)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
