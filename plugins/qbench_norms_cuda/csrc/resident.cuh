// A group of GroupNorm that fits in the shared memory of a block or of a cluster: x is read once.
#pragma once
#include "planes.cuh"

constexpr int RESIDENT_THREADS = 1024;
constexpr int MOST_CLUSTER = 16;

/// What a block shares besides its slice of the group.
struct ResidentScratch {
    Pair warps[RESIDENT_THREADS / WARP_LANES];
    Pair blocks[MOST_CLUSTER];
    Statistics statistics;
};

/// Sum over the cluster, in its first thread of every block. The blocks add up in the order of their rank.
__device__ __forceinline__ Pair over_cluster(Pair sum, ResidentScratch* scratch) {
    for (int step = 1; step < WARP_LANES; step *= 2) {
        const Pair other = {__shfl_xor_sync(0xffffffffu, sum.first, step), __shfl_xor_sync(0xffffffffu, sum.second, step)};
        sum = sum + other;
    }
    if (threadIdx.x % WARP_LANES == 0) scratch->warps[threadIdx.x / WARP_LANES] = sum;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < blockDim.x / WARP_LANES; ++warp) sum = sum + scratch->warps[warp];
    if (qb::cluster_size() == 1) return sum;
    qb::cluster_wait();  // all blocks have started
    if (threadIdx.x == 0)
        for (int rank = 0; rank < qb::cluster_size(); ++rank)
            qb::in_cluster(scratch->blocks, rank)[qb::cluster_rank()] = sum;
    qb::cluster_sync();
    if (threadIdx.x == 0) {
        sum = scratch->blocks[0];
        for (int rank = 1; rank < qb::cluster_size(); ++rank) sum = sum + scratch->blocks[rank];
    }
    return sum;
}

/// Blocks: clusters of one group each, by image and group. Threads: whole warps. A block has `width` vectors.
/// Shared: ResidentScratch, then `width` vectors of 16 bytes.
template <class T, int WIDTH>
__global__ void __launch_bounds__(RESIDENT_THREADS) group_resident(const __grid_constant__ ImageArgs a) {
    constexpr int LANES = ELEMENTS<T>;
    auto* const scratch = reinterpret_cast<ResidentScratch*>(qb::extern_shared());
    auto* const kept = reinterpret_cast<Words<T>*>(scratch + 1);
    if (qb::cluster_size() > 1) qb::cluster_arrive();
    qb::wait_for_previous_grid();
    const long long set = blockIdx.x / qb::cluster_size(), sets = a.channels / a.group;
    const int elements = static_cast<int>(a.group * a.positions), width = static_cast<int>(a.width);
    const int begin = qb::cluster_rank() * width * LANES;
    const long long start = set * elements;
    const float pivot = pivot_of<GroupNorm, PlaneOrder, T>(a, set / sets, set % sets * a.group);

    Pair sum = {0.0, 0.0};
    for (int v = threadIdx.x; v < width && begin + v * LANES < elements; v += PLANE_ITEMS * blockDim.x) {
        const int first = begin + v * LANES;
        const PlaneTile<T> tile = {start + first, static_cast<int>(blockDim.x) * LANES,
                                   min((width - v) * LANES, elements - first)};
        sum = sum + forward_tile<WIDTH>(a, tile, pivot, [&](int i, const Words<T>& words) {
                  if (tile.live(i) > 0) kept[v + i * blockDim.x] = words;
              });
    }
    sum = over_cluster(sum, scratch);
    if (threadIdx.x == 0) {
        scratch->statistics = measured(elements, pivot, sum).statistics(a.eps);
        if (qb::cluster_rank() == 0) a.statistics[set] = scratch->statistics;
    }
    __syncthreads();

    const Statistics statistics = scratch->statistics;
    const unsigned positions = static_cast<unsigned>(a.positions);
    const long long channel = set % sets * a.group;
    T* const out = static_cast<T*>(a.out) + start;
    for (int v = threadIdx.x; v < width && begin + v * LANES < elements; v += blockDim.x) {
        const int first = begin + v * LANES;
        const Words<T> words = kept[v];
        int next = first / positions;
        Coefficients k = forward_coefficients(a, statistics, channel + next++);
        Words<T> made;
#pragma unroll
        for (int e = 0; e < LANES; ++e) {
            if (first + e == next * positions && first + e < elements) k = forward_coefficients(a, statistics, channel + next++);
            put(made, e, applied<false>(k, words.at(e), 0.0f));
        }
        store_words<WIDTH>(out + first, made, elements - first);
    }
}
