// What kernels include: vector access, number conversions, warps, clusters and dependent launches.
// The same source is compiled for the device, and by a host compiler for the emulator (QB_HOST_EMU).
// QB_ARCH is the architecture compiled for, as 900 for sm_90.
#pragma once

#ifdef QB_HOST_EMU
#define QB_INLINE inline
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#define QB_INLINE __device__ __forceinline__
#ifdef __CUDA_ARCH__
#define QB_ARCH __CUDA_ARCH__
#else
#define QB_ARCH 0
#endif
// A static array in shared memory; anything but tiny scratch belongs in extern_shared().
#define QB_SHARED(type, name, count) __shared__ type name[count]
#endif

namespace qb {

// ---- vectors

// N elements that are moved at once. Its address is a multiple of its size, which is a power of two.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
    T v[N];
};

namespace detail {

template <int Bytes>
struct Word;
template <>
struct Word<1> {
    using type = unsigned char;
};
template <>
struct Word<2> {
    using type = unsigned short;
};
template <>
struct Word<4> {
    using type = unsigned int;
};
template <>
struct Word<8> {
    using type = uint2;
};
template <>
struct Word<16> {
    using type = uint4;
};

#ifdef QB_HOST_EMU
template <class W>
QB_INLINE W read(const W* from) {
    return *from;
}
template <class W>
QB_INLINE W read_once(const W* from) {
    return *from;
}
template <class W>
QB_INLINE void write_once(W* to, W word) {
    *to = word;
}
#else
template <class W>
QB_INLINE void write_once(W* to, W word) {
    __stcs(to, word);
}
template <class W>
QB_INLINE W read_once(const W* from) {
    return __ldcs(from);  // too narrow for the hint below to be worth it
}
QB_INLINE unsigned int read_once(const unsigned int* from) {
    unsigned int word;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(word) : "l"(__cvta_generic_to_global(from)));
    return word;
}
QB_INLINE uint2 read_once(const uint2* from) {
    uint2 word;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                 : "=r"(word.x), "=r"(word.y)
                 : "l"(__cvta_generic_to_global(from)));
    return word;
}
QB_INLINE uint4 read_once(const uint4* from) {
    uint4 word;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "l"(__cvta_generic_to_global(from)));
    return word;
}
#endif

template <class T, int N>
struct Words {
    static constexpr int bytes = sizeof(T) * N < 16 ? sizeof(T) * N : 16;
    static constexpr int count = sizeof(T) * N / bytes;
    using type = typename Word<bytes>::type;
    union Both {
        type words[count];
        Vec<T, N> vector;
        QB_INLINE Both() {}
    };
};

template <class T>
QB_INLINE void check_alignment(const T* address) {
#ifdef QB_HOST_EMU
    constexpr size_t needed = alignof(T) < 16 ? alignof(T) : 16;
    if (reinterpret_cast<size_t>(address) % needed)
        qb_host::runtime->fail("a vector at an address that is no multiple of its size",
                               {"load or store", __FILE__, __LINE__});
#endif
}

}  // namespace detail

// The vector at `from`, in words of up to 16 bytes.
template <class T, int N>
QB_INLINE Vec<T, N> load(const Vec<T, N>* from) {
    using Words = detail::Words<T, N>;
    detail::check_alignment(from);
    typename Words::Both both;
#pragma unroll
    for (int i = 0; i < Words::count; ++i) both.words[i] = reinterpret_cast<const typename Words::type*>(from)[i];
    return both.vector;
}

// Likewise from global memory that no thread of this launch writes and none reads again soon.
template <class T, int N>
QB_INLINE Vec<T, N> load_once(const Vec<T, N>* from) {
    using Words = detail::Words<T, N>;
    detail::check_alignment(from);
    typename Words::Both both;
#pragma unroll
    for (int i = 0; i < Words::count; ++i)
        both.words[i] = detail::read_once(reinterpret_cast<const typename Words::type*>(from) + i);
    return both.vector;
}

template <class T, int N>
QB_INLINE void store(Vec<T, N>* to, const Vec<T, N>& vector) {
    using Words = detail::Words<T, N>;
    detail::check_alignment(to);
    typename Words::Both both;
    both.vector = vector;
#pragma unroll
    for (int i = 0; i < Words::count; ++i) reinterpret_cast<typename Words::type*>(to)[i] = both.words[i];
}

// Likewise to global memory that is not read again soon.
template <class T, int N>
QB_INLINE void store_once(Vec<T, N>* to, const Vec<T, N>& vector) {
    using Words = detail::Words<T, N>;
    detail::check_alignment(to);
    typename Words::Both both;
    both.vector = vector;
#pragma unroll
    for (int i = 0; i < Words::count; ++i)
        detail::write_once(reinterpret_cast<typename Words::type*>(to) + i, both.words[i]);
}

// ---- conversions: to nearest, ties to even; what is too large for a 16-bit float becomes infinite

QB_INLINE float to_float(float x) { return x; }
QB_INLINE float to_float(__half x) { return __half2float(x); }
QB_INLINE float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
QB_INLINE T from_float(float x);
template <>
QB_INLINE float from_float<float>(float x) {
    return x;
}
template <>
QB_INLINE __half from_float<__half>(float x) {
    return __float2half_rn(x);
}
template <>
QB_INLINE __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// Codes of 8-bit floats, saturating at the largest finite value (infinity as well); NaN stays NaN.
QB_INLINE unsigned char to_e4m3(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }
QB_INLINE unsigned char to_e5m2(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2); }
// Two and four codes at once, the first in the lowest byte.
QB_INLINE unsigned short to_e4m3(float a, float b) {
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
}
QB_INLINE unsigned short to_e5m2(float a, float b) {
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E5M2);
}
QB_INLINE unsigned int to_e4m3(float a, float b, float c, float d) {
    return to_e4m3(a, b) | static_cast<unsigned int>(to_e4m3(c, d)) << 16;
}
QB_INLINE unsigned int to_e5m2(float a, float b, float c, float d) {
    return to_e5m2(a, b) | static_cast<unsigned int>(to_e5m2(c, d)) << 16;
}
// Saturates at ±127, so that a code has its negative; NaN becomes 0.
QB_INLINE signed char to_int8(float x) {
    return static_cast<signed char>(__float2int_rn(fminf(fmaxf(x == x ? x : 0.0f, -127.0f), 127.0f)));
}

// Correctly rounded, whatever the compiler is told of fast math.
QB_INLINE float inv_sqrt(float x) { return __frsqrt_rn(x); }
QB_INLINE float divide(float a, float b) { return __fdiv_rn(a, b); }

// ---- warps: all 32 lanes take part; a width splits them into segments of 2, 4, 8, 16 or 32 lanes

QB_INLINE float shfl_xor(float x, int mask, int width = 32) { return __shfl_xor_sync(0xffffffffu, x, mask, width); }
QB_INLINE float shfl_down(float x, int delta, int width = 32) { return __shfl_down_sync(0xffffffffu, x, delta, width); }
QB_INLINE float shfl(float x, int lane, int width = 32) { return __shfl_sync(0xffffffffu, x, lane, width); }

// ---- shared memory

// The dynamic shared memory of the block; its first byte is aligned to 128.
QB_INLINE unsigned char* extern_shared() {
#ifdef QB_HOST_EMU
    return qb_host::runtime->dynamic_shared;
#else
    extern __shared__ __align__(128) unsigned char qb_dynamic_shared[];
    return qb_dynamic_shared;
#endif
}

// ---- clusters: below sm_90 every block is a cluster of its own

QB_INLINE int cluster_rank() {
#ifdef QB_HOST_EMU
    return static_cast<int>(qb_host::runtime->rank);
#elif QB_ARCH >= 900
    unsigned int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
#else
    return 0;
#endif
}

QB_INLINE int cluster_size() {
#ifdef QB_HOST_EMU
    return static_cast<int>(qb_host::runtime->cluster_size);
#elif QB_ARCH >= 900
    unsigned int size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return static_cast<int>(size);
#else
    return 1;
#endif
}

// Every thread of the cluster arrives, and what it wrote before is seen by those who have waited.
// A block must not end while a peer may still reach into its shared memory: sync once more at the end.
QB_INLINE void cluster_arrive() {
#ifdef QB_HOST_EMU
    qb_host::runtime->cluster_arrive({"cluster_arrive", __FILE__, __LINE__});
#elif QB_ARCH >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

QB_INLINE void cluster_wait() {
#ifdef QB_HOST_EMU
    qb_host::runtime->cluster_wait({"cluster_wait", __FILE__, __LINE__});
#elif QB_ARCH >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
    __syncthreads();
#endif
}

QB_INLINE void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

// Where the block of `rank` has what this one has at `shared`.
template <class T>
QB_INLINE T* in_cluster(T* shared, int rank) {
#ifdef QB_HOST_EMU
    const qb_host::Site here{"in_cluster", __FILE__, __LINE__};
    return static_cast<T*>(qb_host::runtime->in_cluster(shared, static_cast<unsigned>(rank), here));
#elif QB_ARCH >= 900
    unsigned long long peer;
    asm("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(shared), "r"(rank));
    return reinterpret_cast<T*>(peer);
#else
    return shared;
#endif
}

// ---- the grid: plan(cooperative=True), so that all blocks run at once

// Every block arrives, and what was written before is seen afterwards. `counter` in global memory is a
// multiple of the number of blocks when the kernel starts, and so again when it ends: 0 the first time.
QB_INLINE void grid_sync(unsigned long long* counter) {
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
        const unsigned long long blocks = 1ull * gridDim.x * gridDim.y * gridDim.z;
        __threadfence();
        const unsigned long long goal = (atomicAdd(counter, 1ull) / blocks + 1) * blocks;
        while (*static_cast<volatile unsigned long long*>(counter) < goal) __nanosleep(32);
        __threadfence();
    }
    __syncthreads();
}

// ---- dependent launches (plan(dependent=True)): before sm_90, and without one, nothing is waited for

// Waits until the launch before this one has ended and its writes are seen.
QB_INLINE void wait_for_previous_grid() {
#if !defined(QB_HOST_EMU) && QB_ARCH >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Allows the dependent launch after this one to start; what is written later may not be seen there
// before it waits.
QB_INLINE void release_next_grid() {
#if !defined(QB_HOST_EMU) && QB_ARCH >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace qb
