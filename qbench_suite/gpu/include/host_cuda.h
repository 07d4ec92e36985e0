// The CUDA C++ that kernels use, for a host compiler: included before a .cu file that is compiled for
// the emulator. Number types and their conversions are NVIDIA's own, from the headers of CUDA.
#ifndef QB_HOST_CUDA_H
#define QB_HOST_CUDA_H

#define QB_HOST_EMU 1

#include "host_threads.h"

// Of host_races.h, where races are looked for.
#ifndef QB_HOST_UNSEEN
#define QB_HOST_UNSEEN
#define QB_HOST_ATOMIC_ACCESS(address)
#endif

#include <crt/host_defines.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define __builtin_assume(holds)
#define __noinline__ __attribute__((noinline))
// Every block has its own: a plain static would be shared by the blocks of a cluster.
#define __shared__ static_assert(false, "declare static shared memory with QB_SHARED(type, name, count)");
#define QB_SHARED(type, name, count)                                                        \
    static const char qb_key_##name = 0;                                                    \
    type(&name)[count] = *static_cast<type(*)[count]>(                                      \
        ::qb_host::runtime->shared(&qb_key_##name, sizeof(type) * (count), alignof(type)))

#define threadIdx (::qb_host::runtime->thread)
#define blockIdx (::qb_host::runtime->block)
#define blockDim (::qb_host::runtime->block_size)
#define gridDim (::qb_host::runtime->grid_size)
#define warpSize 32

#undef assert
#define assert(...)                                                                         \
    ((__VA_ARGS__)                                                                          \
         ? void()                                                                           \
         : ::qb_host::runtime->fail("assertion failed: " #__VA_ARGS__, {"assert", __FILE__, __LINE__}))

// ---- barriers and warps

inline void __syncthreads(QB_HOST_HERE) {
    qb_host::runtime->barrier(qb_host::Block::sync, 0, QB_HOST_SITE("__syncthreads"));
}
inline int __syncthreads_or(int predicate, QB_HOST_HERE) {
    return qb_host::runtime->barrier(qb_host::Block::any, predicate, QB_HOST_SITE("__syncthreads_or"));
}
inline int __syncthreads_and(int predicate, QB_HOST_HERE) {
    return qb_host::runtime->barrier(qb_host::Block::all, predicate, QB_HOST_SITE("__syncthreads_and"));
}
inline int __syncthreads_count(int predicate, QB_HOST_HERE) {
    return qb_host::runtime->barrier(qb_host::Block::count, predicate, QB_HOST_SITE("__syncthreads_count"));
}
inline void __syncwarp(unsigned mask = 0xffffffffu, QB_HOST_HERE) {
    qb_host::runtime->warp(qb_host::Warp::sync, mask, 0, 0, 32, QB_HOST_SITE("__syncwarp"));
}

namespace qb_host {

template <class T>
T exchange(Warp kind, unsigned mask, T value, int parameter, int width, Site site) {
    static_assert(sizeof(T) <= 8, "a lane gives and takes up to 8 bytes");
    uint64_t bits = 0;
    memcpy(static_cast<void*>(&bits), &value, sizeof(T));
    bits = runtime->warp(kind, mask, bits, parameter, width, site);
    memcpy(static_cast<void*>(&value), &bits, sizeof(T));
    return value;
}

}  // namespace qb_host

#define QB_HOST_SHUFFLE(name, kind, type)                                                      \
    template <class T>                                                                         \
    T name(unsigned mask, T value, type parameter, int width = 32, QB_HOST_HERE) {             \
        return qb_host::exchange(qb_host::Warp::kind, mask, value, static_cast<int>(parameter), \
                                 width, QB_HOST_SITE(#name));                                  \
    }
QB_HOST_SHUFFLE(__shfl_sync, shuffle, int)
QB_HOST_SHUFFLE(__shfl_up_sync, up, unsigned)
QB_HOST_SHUFFLE(__shfl_down_sync, down, unsigned)
QB_HOST_SHUFFLE(__shfl_xor_sync, exclusive, int)
#undef QB_HOST_SHUFFLE

#define QB_HOST_VOTE(type, name, kind)                                                         \
    inline type name(unsigned mask, int predicate, QB_HOST_HERE) {                             \
        return static_cast<type>(qb_host::runtime->warp(qb_host::Warp::kind, mask, predicate != 0, 0, \
                                                        32, QB_HOST_SITE(#name)));             \
    }
QB_HOST_VOTE(unsigned, __ballot_sync, ballot)
QB_HOST_VOTE(int, __any_sync, any)
QB_HOST_VOTE(int, __all_sync, all)
#undef QB_HOST_VOTE

// The integer reductions of sm_80; as there, of 32 bits.
#define QB_HOST_REDUCTION(name, kind)                                                          \
    template <class T>                                                                         \
    T name(unsigned mask, T value, QB_HOST_HERE) {                                             \
        static_assert(sizeof(T) == 4, "int or unsigned");                                      \
        const auto wide = static_cast<uint64_t>(static_cast<int64_t>(value));                  \
        return static_cast<T>(                                                                 \
            qb_host::runtime->warp(qb_host::Warp::kind, mask, wide, 0, 32, QB_HOST_SITE(#name))); \
    }
QB_HOST_REDUCTION(__reduce_add_sync, add)
QB_HOST_REDUCTION(__reduce_min_sync, min)
QB_HOST_REDUCTION(__reduce_max_sync, max)
#undef QB_HOST_REDUCTION

inline unsigned __activemask() { return qb_host::runtime->active(); }

// ---- memory: one thread of the operating system runs all, so that every access is atomic and ordered

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T __ldg(const T* from) { return *from; }
template <class T>
T __ldcs(const T* from) { return *from; }
template <class T>
T __ldcg(const T* from) { return *from; }
template <class T>
T __ldca(const T* from) { return *from; }
template <class T>
T __ldcv(const T* from) { return *from; }
template <class T>
void __stcs(T* to, T value) { *to = value; }
template <class T>
void __stcg(T* to, T value) { *to = value; }
template <class T>
void __stwt(T* to, T value) { *to = value; }
template <class T>
void __stwb(T* to, T value) { *to = value; }

namespace qb_host {

// Another type than T is deduced from, so that atomicAdd(&float, 1) converts as in CUDA.
template <class T>
struct Same {
    using type = T;
};

template <class T, class F>
QB_HOST_UNSEEN T replaced(T* address, F next) {
    QB_HOST_ATOMIC_ACCESS(address);
    const T before = *address;
    *address = next(before);
    return before;
}

}  // namespace qb_host

#define QB_HOST_ATOMIC(name, expression)                                                    \
    template <class T>                                                                      \
    T name(T* address, typename qb_host::Same<T>::type value) {                             \
        return qb_host::replaced(address, [&](T before) -> T { return expression; });       \
    }
QB_HOST_ATOMIC(atomicAdd, before + value)
QB_HOST_ATOMIC(atomicSub, before - value)
QB_HOST_ATOMIC(atomicExch, ((void)before, value))
QB_HOST_ATOMIC(atomicMin, value < before ? value : before)
QB_HOST_ATOMIC(atomicMax, before < value ? value : before)
QB_HOST_ATOMIC(atomicAnd, before & value)
QB_HOST_ATOMIC(atomicOr, before | value)
QB_HOST_ATOMIC(atomicXor, before ^ value)
QB_HOST_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
QB_HOST_ATOMIC(atomicDec, before == 0 || before > value ? value : before - 1)
#undef QB_HOST_ATOMIC
template <class T>
T atomicCAS(T* address, typename qb_host::Same<T>::type expected, typename qb_host::Same<T>::type value) {
    return qb_host::replaced(address, [&](T before) -> T { return before == expected ? value : before; });
}

inline void __nanosleep(unsigned, QB_HOST_HERE) { qb_host::runtime->relax(QB_HOST_SITE("__nanosleep")); }
[[noreturn]] inline void __trap(QB_HOST_HERE) {
    qb_host::runtime->fail("the kernel trapped", QB_HOST_SITE("__trap"));
    __builtin_unreachable();
}
inline long long clock64() {
    static long long ticks = 0;
    return ++ticks;
}
inline long long clock() { return clock64(); }

// ---- arithmetic: one rounding each, as with the device's functions of these names

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
// That it is rounded twice moves the result of no float: all of them were checked.
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double x) { return sqrt(x); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __saturatef(float x) { return x == x ? fminf(fmaxf(x, 0.0f), 1.0f) : 0.0f; }
inline float __fdividef(float a, float b) { return a / b; }
inline int __float2int_rn(float x) {
    if (!(x == x)) return 0;
    return x >= 2147483648.0f ? 2147483647 : x <= -2147483648.0f ? -2147483647 - 1 : static_cast<int>(nearbyintf(x));
}
inline int __float2int_rz(float x) { return __float2int_rn(truncf(x)); }
inline int __float2int_rd(float x) { return __float2int_rn(floorf(x)); }
inline int __float2int_ru(float x) { return __float2int_rn(ceilf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

namespace qb_host {

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float reciprocal_root(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double reciprocal_root(double x) { return 1.0 / sqrt(x); }

}  // namespace qb_host

inline int __float_as_int(float x) { return qb_host::same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return qb_host::same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return qb_host::same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return qb_host::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return qb_host::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return qb_host::same_bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned pick = selector >> (4 * i) & 0xf;
        unsigned byte = bytes >> (8 * (pick & 7)) & 0xff;
        if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << (8 * i);
    }
    return result;
}

#define QB_HOST_EXTREMA(type)                                          \
    inline type min(type a, type b) { return b < a ? b : a; }          \
    inline type max(type a, type b) { return a < b ? b : a; }
QB_HOST_EXTREMA(int)
QB_HOST_EXTREMA(unsigned)
QB_HOST_EXTREMA(long)
QB_HOST_EXTREMA(unsigned long)
QB_HOST_EXTREMA(long long)
QB_HOST_EXTREMA(unsigned long long)
#undef QB_HOST_EXTREMA
// Of floats the one that is a number.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// Macros, as the C library may declare functions of these names, and of some defines none.
#define rsqrtf(x) ::qb_host::reciprocal_root(static_cast<float>(x))
#define rsqrt(x) ::qb_host::reciprocal_root(x)
#define rcbrtf(x) (1.0f / cbrtf(x))
#define __expf(x) expf(x)
#define __exp10f(x) powf(10.0f, x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __tanhf(x) tanhf(x)

// ---- entry: what the emulator finds in the compiled library

namespace qb_host {

template <class Arguments>
void call(void (*kernel)(Arguments), const void* arguments) {
    kernel(*static_cast<const Arguments*>(arguments));
}
template <class Arguments>
constexpr size_t size_of(void (*)(Arguments)) {
    return sizeof(Arguments);
}

}  // namespace qb_host

#define QB_HOST_EXPORT extern "C" __attribute__((visibility("default")))
QB_HOST_EXPORT void qb_bind(qb_host::Runtime* runtime) { qb_host::runtime = runtime; }
// One kernel of the library; the expression stands last, as its template arguments hold commas.
#define QB_HOST_KERNEL(number, ...)                                                                     \
    QB_HOST_EXPORT void qb_kernel_##number(const void* a) { ::qb_host::call(__VA_ARGS__, a); }          \
    QB_HOST_EXPORT size_t qb_bytes_##number() { return ::qb_host::size_of(__VA_ARGS__); }

#endif  // QB_HOST_CUDA_H
