"""Which machine instructions compute with floats; those that move or select bits do not."""

from __future__ import annotations

import re
from collections.abc import Callable

#: SSE, AVX, AVX-512, AVX10, FMA and AMX, scalar and packed, of float8 to float64.
_X86_VECTOR = re.compile(
    r"v?(?:add|sub|mul|div|sqrt|rsqrt(?:14|28)?|rcp(?:14|28)?|min|max|minmax|hadd|hsub|addsub|dp"
    r"|cmp\w*?|round|rndscale|getexp|getmant|fixupimm|range|reduce|scalef|exp2|fpclass|frcz"
    r"|fn?m(?:add|sub|addsub|subadd)(?:132|213|231)?|fc?m(?:ul|add)c|4fn?madd)"
    r"(?:ne)?(?:[ps][shd]|p?bf16|s?bf16)[xyz]?"
    r"|v?u?com[ix]s(?:[shd]|bf16)|v?cvt\w+|vdp(?:bf16|ph)ps|t(?:dp|mm|cmm|tdp|tmm)\w*(?:ps|tf32)"
)
_X87 = re.compile(
    r"f(?:i?(?:add|subr?|mul|divr?)p?|(?:i|u)?com\w*|ild|istt?p?|sqrt|sin|cos|sincos|ptan|patan|2xm1"
    r"|yl2x(?:p1)?|prem1?|rndint|scale|xtract|abs|chs|tst|xam)(?:s|l|ll)?"
)
#: Of ARM, whatever begins with f computes with floats, but for moves, selections and barriers.
_ARM = re.compile(
    r"f(?!mov|csel|dup|cpy|ence)\w+|[su]cvtf\w*|bf(?:dot|mmla|mla\w*|mls\w*|cvt\w*|add|sub|mul|max\w*"
    r"|min\w*|clamp|mop\w*)|bf(?:scale|tmopa|vdot)"
)
#: Functions of the C library, and of compilers, that compute with floats.
_FUNCTION = re.compile(
    r"(?:c?a?(?:sin|cos|tan)h?|sincos|atan2|c?exp|exp(?:2|10|m1)|c?log|log(?:2|10|1p|b)|c?pow|c?sqrt"
    r"|cabs|carg|cbrt|hypot|fmod"
    r"|remainder|remquo|l{0,2}r(?:int|ound)|nearbyint|floor|ceil|trunc|erfc?|[lt]gamma"
    r"|ldexp|frexp|scalbl?n|ilogb|modf|fma|fmax|fmin|fdim)[fl]?@.*"
    r"|(?:[de]rand48(?:_r)?|strto(?:d|f|ld)|atof|cblas_i?[sdcz]\w+|[sdcz]gemm_?)@.*"
    r"|__(?:add|sub|mul|div|neg|cmp|pow)[shdxt]f\w*|__float\w+[shdxt]f\w*|__fix\w*[shdxt]f\w+|_ZGV\w+@.*"
)
#: Prefixes that stand before a mnemonic.
_PREFIXES = frozenset(
    {"lock", "rep", "repz", "repnz", "bnd", "notrack", "data16", "addr32", "cs", "ds", "es", "ss"}
)
#: Functions, and data, of the C and C++ libraries and of OpenMP that have nothing to do with floats.
_INTEGER_FUNCTION = re.compile(
    r"(?:__)?(?:mem(?:cpy|move|set|cmp|chr)|str(?:len|n?cmp|n?cpy|r?chr))(?:_chk)?|malloc|calloc|realloc"
    r"|free|aligned_alloc|posix_memalign|abort|_?exit|atexit|__(?:assert_fail|stack_chk_(?:fail|guard))"
    r"|__(?:tls_get_addr|errno_location|gmon_start__|libc_start_main)|_ITM_\w+|__cxa_\w+|_Unwind_\w+"
    r"|__gxx_personality_v0|_Z[nd][wal]\w+|_ZSt(?:9terminatev|\d+__throw_\w+)|_ZT[ISV]\w+|GOMP_\w+"
    r"|omp_(?!get_w)\w+|__kmpc_(?!atomic_(?:float|cmplx))\w+|pthread_\w+|sched_\w+"
)
_CALLED = re.compile(r"<([^>+]+)>")


def _x86(mnemonic: str) -> bool:
    return any(kind.fullmatch(mnemonic) for kind in (_X86_VECTOR, _X87))


def _arm(mnemonic: str) -> bool:
    return _ARM.fullmatch(mnemonic) is not None


#: What objdump calls a machine → whether a mnemonic of it computes with floats.
_MACHINES: dict[str, Callable[[str], bool]] = {
    "x86-64": _x86,
    "i386": _x86,
    "aarch64": _arm,
    "arm64": _arm,
}


def machine_of(file_format: str) -> Callable[[str], bool] | None:
    """By the format that objdump names: whether a mnemonic computes with floats; None if unknown."""
    return next((is_float for name, is_float in _MACHINES.items() if name in file_format), None)


def mnemonic_of(instruction: str) -> str:
    """``vpdpbusd`` of ``{vex} vpdpbusd %ymm0,…``; empty for what is no instruction."""
    for word in instruction.split():
        if word not in _PREFIXES and not word.startswith(("{", "(", "rex")):
            return word
    return ""


def called_float_function(instruction: str) -> str:
    """The float function of the C library that a call or jump leads to; empty where there is none."""
    found = _CALLED.search(instruction)
    return found[1] if found and _FUNCTION.match(found[1]) else ""


def other_function(instruction: str) -> str:
    """What an instruction names of another library, not known to be of integers; empty without."""
    found = _CALLED.search(instruction)
    name, at, _ = found[1].partition("@") if found else ("", "", "")
    return name if at and not _INTEGER_FUNCTION.fullmatch(name) else ""
