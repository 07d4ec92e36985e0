// The Metal Shading Language that kernels use, for a host compiler: included before a .metal file that
// is compiled for the emulator. A simdgroup has 32 threads, as on Apple's GPUs.
#pragma once

#define QB_HOST_EMU 1

#include "host_threads.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

namespace qb_host {

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
    To to;
    memcpy(static_cast<void*>(&to), &from, sizeof to);
    return to;
}

// A float of 16 bits: each operation is done in float and rounded, which is correct rounding for both
// formats. `ExponentBits` is 5 for half, 8 for bfloat.
template <int ExponentBits>
struct Small {
    uint16_t bits;

    static constexpr int kMantissa = 15 - ExponentBits;
    static constexpr int kLeast = 2 - (1 << (ExponentBits - 1));  // exponent of the least normal number
    static constexpr uint16_t kInfinity = static_cast<uint16_t>(((1 << ExponentBits) - 1) << kMantissa);

    static uint16_t rounded(float x) {
        const uint16_t sign = same_bits<uint32_t>(x) >> 16 & 0x8000;
        if (x != x) return sign | kInfinity | 1 << (kMantissa - 1);
        const float magnitude = fabsf(x);
        if (magnitude == 0 || std::isinf(magnitude)) return sign | (magnitude == 0 ? 0 : kInfinity);
        int exponent = ilogbf(magnitude);
        if (exponent < kLeast) exponent = kLeast;
        // In units of the last place: nearbyint rounds to nearest, ties to even.
        const double units_of_last = scalbn(static_cast<double>(magnitude), kMantissa - exponent);
        const auto units = static_cast<uint32_t>(nearbyint(units_of_last));
        const uint32_t code = (static_cast<uint32_t>(exponent - kLeast) << kMantissa) + units;
        return sign | (code >= kInfinity ? kInfinity : static_cast<uint16_t>(code));
    }

    float wide() const {
        const float sign = bits & 0x8000 ? -1.0f : 1.0f;
        const int exponent = (bits & 0x7fff) >> kMantissa;
        const int mantissa = bits & ((1 << kMantissa) - 1);
        if ((bits & kInfinity) == kInfinity)
            return mantissa ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
        if (exponent == 0) return sign * static_cast<float>(scalbn(mantissa, kLeast - kMantissa));
        return sign * static_cast<float>(scalbn((1 << kMantissa) + mantissa, exponent - 1 + kLeast - kMantissa));
    }

    Small() = default;
    // As in Metal, a half is made of any number without being asked, a bfloat is not.
    template <class N, class = std::enable_if_t<std::is_arithmetic_v<N> && (ExponentBits == 5 || sizeof(N) == 0)>>
    Small(N x) : bits(rounded(static_cast<float>(x))) {}
    template <class N, class = std::enable_if_t<std::is_arithmetic_v<N> && ExponentBits != 5>, class = void>
    explicit Small(N x) : bits(rounded(static_cast<float>(x))) {}
    template <int Other, class = std::enable_if_t<Other != ExponentBits>>
    explicit Small(Small<Other> x) : bits(rounded(x.wide())) {}
    operator float() const { return wide(); }

    template <class N>
    Small& operator+=(N x) { return *this = Small(wide() + static_cast<float>(x)); }
    template <class N>
    Small& operator-=(N x) { return *this = Small(wide() - static_cast<float>(x)); }
    template <class N>
    Small& operator*=(N x) { return *this = Small(wide() * static_cast<float>(x)); }
    template <class N>
    Small& operator/=(N x) { return *this = Small(wide() / static_cast<float>(x)); }
};
// Templates, so that a mixture with float is left to float's own operators.
template <int E>
Small<E> operator+(Small<E> a, Small<E> b) { return Small<E>(a.wide() + b.wide()); }
template <int E>
Small<E> operator-(Small<E> a, Small<E> b) { return Small<E>(a.wide() - b.wide()); }
template <int E>
Small<E> operator*(Small<E> a, Small<E> b) { return Small<E>(a.wide() * b.wide()); }
template <int E>
Small<E> operator/(Small<E> a, Small<E> b) { return Small<E>(a.wide() / b.wide()); }
template <int E>
Small<E> operator-(Small<E> a) { return Small<E>(-a.wide()); }

template <class T, int N>
struct Components {
    T x, y;
};
template <class T>
struct Components<T, 3> {
    T x, y, z;
};
template <class T>
struct Components<T, 4> {
    T x, y, z, w;
};

// As in Metal, three components take the room of four.
template <class T, int N>
struct alignas(sizeof(T) * (N == 3 ? 4 : N)) Vector : Components<T, N> {
    Vector() = default;
    template <class S, class = std::enable_if_t<std::is_convertible_v<S, T>>>
    Vector(S same) { for (int i = 0; i < N; ++i) (*this)[i] = static_cast<T>(same); }
    template <class... S, class = std::enable_if_t<sizeof...(S) == N && (N > 1)>>
    Vector(S... parts) {
        const T all[N] = {static_cast<T>(parts)...};
        for (int i = 0; i < N; ++i) (*this)[i] = all[i];
    }
    template <class S>
    explicit Vector(const Vector<S, N>& other) { for (int i = 0; i < N; ++i) (*this)[i] = static_cast<T>(other[i]); }
    T& operator[](int i) { return reinterpret_cast<T*>(this)[i]; }
    const T& operator[](int i) const { return reinterpret_cast<const T*>(this)[i]; }
};

#define QB_HOST_ELEMENTWISE(op)                                                                   \
    template <class T, int N>                                                                     \
    Vector<T, N> operator op(const Vector<T, N>& a, const Vector<T, N>& b) {                      \
        Vector<T, N> result;                                                                      \
        for (int i = 0; i < N; ++i) result[i] = a[i] op b[i];                                     \
        return result;                                                                            \
    }                                                                                             \
    template <class T, int N, class S, class = std::enable_if_t<std::is_convertible_v<S, T>>>     \
    Vector<T, N> operator op(const Vector<T, N>& a, S b) { return a op Vector<T, N>(b); }         \
    template <class T, int N, class S, class = std::enable_if_t<std::is_convertible_v<S, T>>>     \
    Vector<T, N> operator op(S a, const Vector<T, N>& b) { return Vector<T, N>(a) op b; }         \
    template <class T, int N, class S>                                                            \
    Vector<T, N>& operator op##=(Vector<T, N>& a, const S& b) { return a = a op b; }
QB_HOST_ELEMENTWISE(+)
QB_HOST_ELEMENTWISE(-)
QB_HOST_ELEMENTWISE(*)
QB_HOST_ELEMENTWISE(/)
#undef QB_HOST_ELEMENTWISE

template <class T>
T exchange(Warp kind, T value, int parameter, Site site) {
    static_assert(sizeof(T) <= 8, "a lane gives and takes up to 8 bytes");
    uint64_t bits = 0;
    memcpy(static_cast<void*>(&bits), &value, sizeof(T));
    bits = runtime->warp(kind, runtime->active(), bits, parameter, 32, site);
    memcpy(static_cast<void*>(&value), &bits, sizeof(T));
    return value;
}

// Folds the values of all threads of the simdgroup, of which the last may have fewer than 32.
template <class T, class Fold>
T folded(T value, Fold fold, Site site) {
    const uint32_t active = runtime->active();
    if (active & (active + 1)) runtime->fail("threads of a simdgroup have ended before the others reduce", site);
    for (int distance = 16; distance; distance /= 2) {
        const bool there = active >> (runtime->lane + distance) & 1 && runtime->lane + distance < 32;
        const T other = exchange(Warp::shuffle, value, static_cast<int>(runtime->lane) + (there ? distance : 0), site);
        if (there) value = fold(value, other);
    }
    return exchange(Warp::shuffle, value, 0, site);
}

}  // namespace qb_host

typedef qb_host::Small<5> half;
typedef qb_host::Small<8> bfloat;

#define QB_HOST_VECTORS(type)                \
    typedef qb_host::Vector<type, 2> type##2; \
    typedef qb_host::Vector<type, 3> type##3; \
    typedef qb_host::Vector<type, 4> type##4;
QB_HOST_VECTORS(float)
QB_HOST_VECTORS(half)
QB_HOST_VECTORS(bfloat)
QB_HOST_VECTORS(int)
QB_HOST_VECTORS(uint)
QB_HOST_VECTORS(short)
QB_HOST_VECTORS(ushort)
QB_HOST_VECTORS(long)
QB_HOST_VECTORS(ulong)
QB_HOST_VECTORS(char)
QB_HOST_VECTORS(uchar)
QB_HOST_VECTORS(bool)
#undef QB_HOST_VECTORS

namespace metal {

template <class To, class From>
To as_type(From from) { return qb_host::same_bits<To>(from); }

template <class T, int N>
using vec = qb_host::Vector<T, N>;

#define QB_HOST_FUNCTIONS                                                            \
    inline float rsqrt(float x) { return static_cast<float>(1.0 / ::sqrt(double(x))); } \
    inline float sqrt(float x) { return ::sqrtf(x); }                                \
    inline float exp(float x) { return ::expf(x); }                                  \
    inline float exp2(float x) { return ::exp2f(x); }                                \
    inline float log(float x) { return ::logf(x); }                                  \
    inline float log2(float x) { return ::log2f(x); }                                \
    inline float pow(float x, float y) { return ::powf(x, y); }                      \
    inline float sin(float x) { return ::sinf(x); }                                  \
    inline float cos(float x) { return ::cosf(x); }                                  \
    inline float tanh(float x) { return ::tanhf(x); }                                \
    inline float divide(float x, float y) { return x / y; }
QB_HOST_FUNCTIONS
namespace precise {
QB_HOST_FUNCTIONS
}
namespace fast {
QB_HOST_FUNCTIONS
}
#undef QB_HOST_FUNCTIONS

inline float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
inline float fabs(float x) { return ::fabsf(x); }
inline float abs(float x) { return ::fabsf(x); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline float floor(float x) { return ::floorf(x); }
inline float ceil(float x) { return ::ceilf(x); }
inline float trunc(float x) { return ::truncf(x); }
inline float rint(float x) { return ::rintf(x); }
inline float round(float x) { return ::roundf(x); }
inline float copysign(float x, float y) { return ::copysignf(x, y); }
inline bool isnan(float x) { return x != x; }
inline bool isinf(float x) { return std::isinf(x); }
inline bool isfinite(float x) { return std::isfinite(x); }
// Of floats the one that is a number.
inline float fmin(float a, float b) { return ::fminf(a, b); }
inline float fmax(float a, float b) { return ::fmaxf(a, b); }
inline float min(float a, float b) { return ::fminf(a, b); }
inline float max(float a, float b) { return ::fmaxf(a, b); }
template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
T min(T a, T b) { return b < a ? b : a; }
template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
T max(T a, T b) { return a < b ? b : a; }
template <class T>
T clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class T>
T select(T no, T yes, bool which) { return which ? yes : no; }
inline uint popcount(uint x) { return static_cast<uint>(__builtin_popcount(x)); }
inline uint clz(uint x) { return x ? static_cast<uint>(__builtin_clz(x)) : 32; }

template <class T, int N>
T dot(const vec<T, N>& a, const vec<T, N>& b) {
    T sum = a[0] * b[0];
    for (int i = 1; i < N; ++i) sum = sum + a[i] * b[i];
    return sum;
}

template <class T>
struct numeric_limits : std::numeric_limits<T> {};

// ---- threadgroups and simdgroups

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
    return static_cast<mem_flags>(static_cast<int>(a) | static_cast<int>(b));
}

inline void threadgroup_barrier(mem_flags, QB_HOST_HERE) {
    qb_host::runtime->barrier(qb_host::Block::sync, 0, QB_HOST_SITE("threadgroup_barrier"));
}
inline void simdgroup_barrier(mem_flags, QB_HOST_HERE) {
    const uint32_t all = qb_host::runtime->active();
    qb_host::runtime->warp(qb_host::Warp::sync, all, 0, 0, 32, QB_HOST_SITE("simdgroup_barrier"));
}
template <class T>
T simd_sum(T value, QB_HOST_HERE) {
    return qb_host::folded(value, [](T a, T b) { return static_cast<T>(a + b); }, QB_HOST_SITE("simd_sum"));
}
template <class T>
T simd_product(T value, QB_HOST_HERE) {
    return qb_host::folded(value, [](T a, T b) { return static_cast<T>(a * b); }, QB_HOST_SITE("simd_product"));
}
template <class T>
T simd_max(T value, QB_HOST_HERE) {
    return qb_host::folded(value, [](T a, T b) { return static_cast<T>(max(a, b)); }, QB_HOST_SITE("simd_max"));
}
template <class T>
T simd_min(T value, QB_HOST_HERE) {
    return qb_host::folded(value, [](T a, T b) { return static_cast<T>(min(a, b)); }, QB_HOST_SITE("simd_min"));
}
template <class T>
T simd_shuffle(T value, ushort lane, QB_HOST_HERE) {
    return qb_host::exchange(qb_host::Warp::shuffle, value, lane, QB_HOST_SITE("simd_shuffle"));
}
template <class T>
T simd_broadcast(T value, ushort lane, QB_HOST_HERE) {
    return qb_host::exchange(qb_host::Warp::shuffle, value, lane, QB_HOST_SITE("simd_broadcast"));
}
template <class T>
T simd_shuffle_xor(T value, ushort mask, QB_HOST_HERE) {
    return qb_host::exchange(qb_host::Warp::exclusive, value, mask, QB_HOST_SITE("simd_shuffle_xor"));
}
template <class T>
T simd_shuffle_up(T value, ushort delta, QB_HOST_HERE) {
    return qb_host::exchange(qb_host::Warp::up, value, delta, QB_HOST_SITE("simd_shuffle_up"));
}
template <class T>
T simd_shuffle_down(T value, ushort delta, QB_HOST_HERE) {
    return qb_host::exchange(qb_host::Warp::down, value, delta, QB_HOST_SITE("simd_shuffle_down"));
}
inline bool simd_any(bool holds, QB_HOST_HERE) {
    const uint32_t all = qb_host::runtime->active();
    return qb_host::runtime->warp(qb_host::Warp::any, all, holds, 0, 32, QB_HOST_SITE("simd_any"));
}
inline bool simd_all(bool holds, QB_HOST_HERE) {
    const uint32_t all = qb_host::runtime->active();
    return qb_host::runtime->warp(qb_host::Warp::all, all, holds, 0, 32, QB_HOST_SITE("simd_all"));
}

// ---- atomics: one thread of the operating system runs all

enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
    T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;

template <class T>
T atomic_load_explicit(const atomic<T>* object, memory_order) { return object->value; }
template <class T>
void atomic_store_explicit(atomic<T>* object, T value, memory_order) { object->value = value; }
template <class T>
T atomic_fetch_add_explicit(atomic<T>* object, T value, memory_order) {
    const T before = object->value;
    object->value = before + value;
    return before;
}

}  // namespace metal

// ---- entry: a parameter of the kernel is given what its attribute names

namespace qb_host {

enum class Attribute {
    buffer,
    thread_position_in_grid,
    thread_position_in_threadgroup,
    threadgroup_position_in_grid,
    threads_per_threadgroup,
    threadgroups_per_grid,
    threads_per_grid,
    thread_index_in_threadgroup,
    thread_index_in_simdgroup,
    simdgroup_index_in_threadgroup,
    threads_per_simdgroup,
    simdgroups_per_threadgroup,
};

struct Given {
    Attribute attribute;
    int buffer;
};

inline Index by_attribute(Attribute attribute) {
    const Runtime& r = *runtime;
    const Index size = r.block_size, groups = r.grid_size, group = r.block, thread = r.thread;
    const unsigned index = thread.x + size.x * (thread.y + size.y * thread.z);
    switch (attribute) {
        case Attribute::thread_position_in_grid:
            return {group.x * size.x + thread.x, group.y * size.y + thread.y, group.z * size.z + thread.z};
        case Attribute::thread_position_in_threadgroup: return thread;
        case Attribute::threadgroup_position_in_grid: return group;
        case Attribute::threads_per_threadgroup: return size;
        case Attribute::threadgroups_per_grid: return groups;
        case Attribute::threads_per_grid: return {groups.x * size.x, groups.y * size.y, groups.z * size.z};
        case Attribute::thread_index_in_threadgroup: return {index, 0, 0};
        case Attribute::thread_index_in_simdgroup: return {index % 32, 0, 0};
        case Attribute::simdgroup_index_in_threadgroup: return {index / 32, 0, 0};
        case Attribute::threads_per_simdgroup: return {32, 0, 0};
        case Attribute::simdgroups_per_threadgroup: return {(size.x * size.y * size.z + 31) / 32, 0, 0};
        default: return {};
    }
}

template <class T>
struct FromIndex {
    static T make(Index index) { return static_cast<T>(index.x); }
};
template <class T, int N>
struct FromIndex<Vector<T, N>> {
    static Vector<T, N> make(Index index) {
        const unsigned all[3] = {index.x, index.y, index.z};
        Vector<T, N> result;
        for (int i = 0; i < N; ++i) result[i] = static_cast<T>(all[i]);
        return result;
    }
};

template <class P>
decltype(auto) given(Given what, void* const* buffers) {
    if constexpr (std::is_pointer_v<P>) {
        return static_cast<P>(buffers[what.buffer]);
    } else if constexpr (std::is_reference_v<P>) {
        return *static_cast<std::remove_reference_t<P>*>(buffers[what.buffer]);
    } else {
        return FromIndex<std::remove_cv_t<P>>::make(by_attribute(what.attribute));
    }
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), const Given* all, void* const* buffers, std::index_sequence<I...>) {
    kernel(given<P>(all[I], buffers)...);
}
template <class... P>
void call(void (*kernel)(P...), const Given* all, const void* buffers) {
    call(kernel, all, static_cast<void* const*>(buffers), std::index_sequence_for<P...>());
}

}  // namespace qb_host

#define QB_HOST_EXPORT extern "C" __attribute__((visibility("default")))
QB_HOST_EXPORT void qb_bind(qb_host::Runtime* runtime) { qb_host::runtime = runtime; }
// What follows the name is each parameter's {attribute, number of its buffer}.
#define QB_HOST_KERNEL(number, name, ...)                                  \
    QB_HOST_EXPORT void qb_kernel_##number(const void* buffers) {          \
        static const ::qb_host::Given all[] = {__VA_ARGS__};               \
        ::qb_host::call(name, all, buffers);                               \
    }

// An array in threadgroup memory; metal.py writes declarations of them this way.
#define QB_THREADGROUP(type, name, extents)                                                     \
    static const char qb_key_##name = 0;                                                        \
    using qb_type_##name = type extents;                                                        \
    qb_type_##name& name = *static_cast<qb_type_##name*>(                                       \
        ::qb_host::runtime->shared(&qb_key_##name, sizeof(qb_type_##name), alignof(qb_type_##name)))

#define kernel
#define device
#define constant const
#define thread
#define threadgroup
