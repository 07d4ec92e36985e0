// Numbers that describe many values, merged from those of parts: over lanes, a block, a cluster.
//
// Whatever is merged here is a plain struct S with merged(S, S) and whose S{} is neutral. merged is
// symmetric to the last bit, so that all threads of a butterfly end with the same bits; the tree of
// merges depends on the number of threads alone.
#pragma once
#include "qbench/device.cuh"

namespace qb {

constexpr unsigned WHOLE_WARP = 0xffffffffu;
constexpr int WARP = 32;
constexpr int MOST_WARPS = 32;
constexpr int MOST_BLOCKS_OF_CLUSTER = 16;

/// How many values, their mean, and the sum of the squares of their distances to it.
struct Moments {
    float count, mean, m2;
};

/// Chan, Golub and LeVeque: moments of two sets of values together.
__device__ __forceinline__ Moments merged(Moments a, Moments b) {
    const float count = a.count + b.count;
    if (count == 0.0f) return a;
    const float share = 1.0f / count;
    const float apart = b.mean - a.mean;
    // Rounded products: a contraction to fma would favour one side, and lanes would disagree.
    const float mean = __fadd_rn(__fmul_rn(a.count * share, a.mean), __fmul_rn(b.count * share, b.mean));
    const float between = apart * apart * (a.count * b.count * share);
    return {count, mean, __fadd_rn(__fadd_rn(a.m2, b.m2), between)};
}

/// K sums.
template <int K>
struct Sums {
    float v[K];
};

template <int K>
__device__ __forceinline__ Sums<K> merged(Sums<K> a, Sums<K> b) {
#pragma unroll
    for (int k = 0; k < K; ++k) a.v[k] += b.v[k];
    return a;
}

/// The largest of values that are not negative; NaN never wins.
struct Largest {
    float v;
};

__device__ __forceinline__ Largest merged(Largest a, Largest b) { return {fmaxf(a.v, b.v)}; }

/// What the lane holds whose number differs by the bits of `step`.
template <class S>
__device__ __forceinline__ S shuffled(S s, int step) {
    static_assert(sizeof(S) % sizeof(float) == 0, "structs of floats");
    constexpr int WORDS = sizeof(S) / sizeof(float);
    float* words = reinterpret_cast<float*>(&s);
#pragma unroll
    for (int k = 0; k < WORDS; ++k) words[k] = __shfl_xor_sync(WHOLE_WARP, words[k], step);
    return s;
}

/// Merged over each aligned group of LANES lanes (a power of two), in all of them. All lanes call it.
template <int LANES, class S>
__device__ __forceinline__ S over_lanes(S s) {
#pragma unroll
    for (int step = 1; step < LANES; step *= 2) s = merged(s, shuffled(s, step));
    return s;
}

/// Merged over a block of whole warps, in all threads, with one barrier.
/// `scratch`: MOST_WARPS in shared memory, not read or written by anything else between two barriers.
template <class S>
__device__ __forceinline__ S over_block(S s, S* scratch) {
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    s = over_lanes<WARP>(s);
    if (warps == 1) return s;
    if (lane == 0) scratch[threadIdx.x / WARP] = s;
    __syncthreads();
    return over_lanes<WARP>(lane < warps ? scratch[lane] : S{});
}

/// Merged over the blocks of a cluster, in all threads, from what all threads of a block hold alike.
/// `scratch`: MOST_BLOCKS_OF_CLUSTER in shared memory. The blocks must have arrived at the cluster's
/// barrier once since they started (cluster_arrive, cluster_wait), so that all are there.
template <class S>
__device__ __forceinline__ S over_cluster(S s, S* scratch) {
    const int blocks = cluster_size();
    if (blocks == 1) return s;
    if (threadIdx.x < blocks) in_cluster(scratch, threadIdx.x)[cluster_rank()] = s;
    cluster_sync();
    const int lane = threadIdx.x % WARP;
    return over_lanes<MOST_BLOCKS_OF_CLUSTER>(
        lane % MOST_BLOCKS_OF_CLUSTER < blocks ? scratch[lane % MOST_BLOCKS_OF_CLUSTER] : S{});
}

}  // namespace qb
