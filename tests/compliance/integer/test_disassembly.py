"""The disassembly audit: C++ that is compiled here, libraries that are installed, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qbench_suite import IntegerAudit, audit_disassembly
from qbench_suite.compliance.integer.disassembly import _Look
from qbench_suite.compliance.integer.instructions import machine_of, mnemonic_of

Build = Callable[..., Path]

INTEGERS = """
#include <cstdint>
static int32_t table[256];
extern "C" void product(const int8_t* a, const int8_t* b, int32_t* y, long n, long k) {
  for (long i = 0; i < n; ++i) {
    int32_t sum = 0;
    for (long j = 0; j < k; ++j) sum += int32_t(a[i * k + j]) * b[j];
    y[i] = int32_t((int64_t(sum) * 1518500250 + (1ll << 30)) >> 31) + table[sum & 255];
  }
}
extern "C" int64_t quotient(int64_t a, int64_t b) { return a / b; }
"""
#: Where a float may hide in C++, each in ``hidden``.
FLOATS = {
    "product": "float hidden(float x) { return x * 3.0f; }",
    "conversion": "float hidden(int x) { return x; }",
    "comparison": "bool hidden(double x) { return x < 2.5; }",
    "rounding": "#include <cmath>\nint hidden(float x) { return int(std::lrintf(x)); }",
    "library": "#include <cmath>\ndouble hidden(double x) { return std::exp(x); }",
    "x87": "long double hidden(long double x) { return x + 1; }",
    "loop": "void hidden(float* x, long n) { for (long i = 0; i < n; ++i) x[i] += x[i]; }",
    "maximum": "double hidden(double a, double b) { return a > b ? a : b; }",
}


@pytest.mark.parametrize("flags", [(), ("-march=native",)], ids=["plain", "native"])
def test_integer_code_has_no_float_instruction(build: Build, flags: tuple[str, ...]) -> None:
    found = audit_disassembly(build(INTEGERS, *flags))
    assert found.passed, str(found)
    assert found.looked_at > 30
    assert found.file == "library.so"


@pytest.mark.parametrize("name", FLOATS)
def test_a_float_is_found_with_its_symbol_and_address(build: Build, name: str) -> None:
    include, _, code = FLOATS[name].rpartition("\n")
    found = audit_disassembly(build(f'{include}\n{INTEGERS}\nextern "C" {code}'))
    assert not found.passed
    assert {use.where.split(" from ")[0] for use in found.findings} == {"hidden"}
    assert all(int(use.where.split()[-2], 16) for use in found.findings)
    if name == "library":
        assert "leads to the float function exp@" in str(found)


def test_moves_of_float_registers_are_not_arithmetic(build: Build) -> None:
    code = 'extern "C" void move(float* a, float* b, bool c) { *a = c ? *b : *(b + 1); }'
    assert audit_disassembly(build(code)).passed


def test_numpy_computes_with_floats() -> None:
    (library,) = Path(np.linalg.__file__).parent.glob("_umath_linalg*.so")
    found = audit_disassembly(library)
    assert found.floats > 100
    assert "… and" in str(found), "a report names some"


def test_without_objdump_the_audit_was_not_run(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = build(INTEGERS)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = audit_disassembly(library)
    assert not found.passed
    assert found.summary == (
        "disassembly of library.so: not run, objdump was not found; install binutils"
    )


def test_what_is_no_library_was_not_audited(tmp_path: Path) -> None:
    assert audit_disassembly(tmp_path / "absent.so").not_run == "there is no such file"
    text = tmp_path / "text.so"
    text.write_text("no library")
    assert audit_disassembly(text).not_run == "objdump cannot read it"
    assert not audit_disassembly(text).passed


def looked_at(*lines: str, format: str = "elf64-littleaarch64") -> _Look:
    look = _Look(Path("lib.so"))
    look.at([f"lib.so:     file format {format}", "", "Disassembly of section .text:", "", *lines])
    return look


def test_machines_other_than_this_one_are_read() -> None:
    found = looked_at(
        "0000000000000630 <scale>:", " 630:\tscvtf\ts0, w0", " 634:\tfmov\tw1, s0", " 638:\tret"
    ).audit()
    (use,) = found.findings
    assert (use.what, use.where, found.looked_at) == ("scvtf", "scale from 630 on", 3)


def test_an_unknown_machine_was_not_audited() -> None:
    found = looked_at("0 <f>:", " 0:\tfadd.s\tfa0,fa0,fa0", format="elf64-littleriscv").audit()
    assert found.not_run.endswith("not elf64-littleriscv")


@pytest.mark.parametrize("section", [".init", ".fini", ".plt", ".plt.sec", ".plt.got"])
def test_what_the_linker_adds_is_left_out(section: str) -> None:
    code = ["0 <f@plt>:", " 0:\tmulss\t%xmm0,%xmm0"]
    look = looked_at(format="elf64-x86-64")
    look.at([f"Disassembly of section {section}:", *code])
    assert look.audit().not_run == "it holds no instruction"
    look.at([f"Disassembly of section {section}.text:", *code])
    assert look.audit().floats == 1


def test_what_follows_the_entry_of_a_stripped_program_is_looked_at() -> None:
    lines = "0 <_start>:", " 0:\thlt", " 4:\tmulss\t%xmm0,%xmm0"
    assert looked_at(*lines, format="elf64-x86-64").audit().floats == 1


def calling(function: str) -> IntegerAudit:
    lines = "0 <f>:", f" 0:\tcall\t10 <{function}>"
    return looked_at(*lines, format="elf64-x86-64").audit()


FLOAT_CALLS = "cblas_sgemm cblas_idamax dgemm_ cexp csqrtf clogl cabs drand48 strtod"
INTEGER_CALLS = (
    "memcpy malloc _Znwm _ZdlPvm GOMP_parallel omp_get_thread_num __cxa_finalize _ZSt9terminatev"
)


@pytest.mark.parametrize("function", FLOAT_CALLS.split())
def test_calls_of_float_functions_are_floats(function: str) -> None:
    assert calling(f"{function}@plt").floats == 1


@pytest.mark.parametrize(
    "function",
    ["printf", "cblas_gemm_s8u8s32", "omp_get_wtime", "__kmpc_atomic_float8_add", "dlsym"],
)
def test_other_functions_of_libraries_are_named(function: str) -> None:
    found = calling(f"{function}@plt")
    assert found.passed
    assert found.opaque == {function: 1}
    # A pointer to it, too.
    text = f" 0:\tmov\t0x2fe1(%rip),%rax        # 3fd8 <{function}@GLIBC_2.2.5>"
    assert looked_at("0 <f>:", text, format="elf64-x86-64").audit().opaque == {function: 1}


@pytest.mark.parametrize("function", INTEGER_CALLS.split())
def test_functions_of_integers_are_not_named(function: str) -> None:
    assert not calling(f"{function}@plt").opaque


def test_functions_that_the_library_holds_are_its_own(build: Build) -> None:
    own = 'extern "C" __attribute__((noinline)) long own(long x) { return x * x + 1; }'
    found = audit_disassembly(build(f'{own}\nextern "C" long f(long x) {{ return own(x) + 2; }}'))
    assert "own" in found.entered
    assert not found.opaque


FLOAT_X86 = """
addss vaddps mulpd vfmadd213ps vfnmsub231sd divss sqrtsd vrsqrt14ps rcpps minps vmaxsd haddps addsubpd
dpps cmpltps vcmpeq_oqpd ucomiss vcomish comisd cvtsi2sdl vcvttps2dq cvtdq2ps vcvtph2ps roundps vrndscalepd
vgetexpps vgetmantsd vfixupimmps vrangepd vreduceps vscalefpd vfpclasspsz vdpbf16ps vaddph vfmaddcph
vmulnepbf16 vmulbf16 tdpbf16ps fadd faddp fmuls fildll fistpll fucomip fsqrt fchs fyl2x vcvtne2ps2bf16
"""
INTEGER_X86 = """
add adds addl sub mul imul div idiv vpaddd paddsw vpmuldq pmulld vpdpbusd {vex} pminsd vpmaxub pcmpeqd
vpcmpltd movss movsd vmovups movaps vxorps andps vandnpd orps shufps unpcklpd vblendvps vpermi2b
vbroadcastss vinsertf128 vextractf32x4 cmpxchg cmpsb cmpsl cwtl cltq cqto fld fstpt fxch fnstcw fninit
vpsadbw vdbpsadbw sets minuss tdpbusd tilezero vpmovzxbd movd vmovq pshufb sarx rorx vpcompressd
vcompressps vexpandpd vpermilps roundup vgatherdps vmaskmovps
"""
FLOAT_ARM = (
    "fadd fmul fmadd fmla fcvtzs scvtf ucvtf frintn fcmp fsqrt fmaxnm faddp bfdot bfmmla bfcvt"
)
INTEGER_ARM = "add mul sdot udot smmla bfi bfxil bfc bfm fmov fcsel ldr str sqrdmulh sshl umull"


@pytest.mark.parametrize(
    ("machine", "floats", "integers"),
    [("elf64-x86-64", FLOAT_X86, INTEGER_X86), ("elf64-littleaarch64", FLOAT_ARM, INTEGER_ARM)],
)
def test_mnemonics_are_told_apart(machine: str, floats: str, integers: str) -> None:
    is_float = machine_of(machine)
    assert is_float is not None
    assert [m for m in floats.split() if not is_float(m)] == []
    assert [m for m in integers.split() if is_float(m)] == []


@pytest.mark.parametrize(
    ("text", "mnemonic"),
    [
        ("{vex} vpdpbusd %ymm0,%ymm1,%ymm2", "vpdpbusd"),
        ("lock addl $0x0,(%rsp)", "addl"),
        ("rep stos %al,%es:(%rdi)", "stos"),
        ("notrack jmp *%rax", "jmp"),
        ("data16 cs nopw 0x0(%rax,%rax,1)", "nopw"),
        ("(bad)", ""),
    ],
)
def test_prefixes_are_no_mnemonics(text: str, mnemonic: str) -> None:
    assert mnemonic_of(text) == mnemonic
