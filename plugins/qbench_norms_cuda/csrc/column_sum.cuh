// The second stage of gradients of weights: sums over the blocks of a first stage, column by column.
// The order of the sum depends on the number of parts alone: same bits in every run.
#pragma once

#include "qbench/device.cuh"

// partial: (2 or 1 outputs, groups, parts, pitch) float32, pitch a multiple of 4 and at least `columns`.
// outputs: (groups, columns) each; null where it is not asked for.
struct ColumnSum {
    const float* partial;
    void* outputs[2];
    long long columns;
    long long pitch;
    long long groups;
    int parts;
};

constexpr int COLUMN_SUM_LANES = 8;  // each with four columns: 128 bytes of a part at once

// Blocks: (column blocks) · groups · outputs. Threads: 8 · a power of two that is at least 4 and at most 32.
template <class T>
__global__ void __launch_bounds__(256) column_sum(const __grid_constant__ ColumnSum a) {
    using Four = qb::Vec<float, 4>;
    QB_SHARED(Four, warps, COLUMN_SUM_LANES * COLUMN_SUM_LANES);
    qb::wait_for_previous_grid();

    const int lane = threadIdx.x % COLUMN_SUM_LANES, walker = threadIdx.x / COLUMN_SUM_LANES;
    const int walkers = blockDim.x / COLUMN_SUM_LANES;
    const long long column_blocks = (a.columns + 4 * COLUMN_SUM_LANES - 1) / (4 * COLUMN_SUM_LANES);
    const long long column = (blockIdx.x % column_blocks * COLUMN_SUM_LANES + lane) * 4;
    const long long which = blockIdx.x / column_blocks;  // of groups · outputs
    if (!a.outputs[which / a.groups]) return;

    Four sum = {0.0f, 0.0f, 0.0f, 0.0f};
    if (column < a.columns) {
        const float* from = a.partial + which * a.parts * a.pitch + column;
#pragma unroll 8
        for (int part = walker; part < a.parts; part += walkers) {
            const Four term = qb::load_once(reinterpret_cast<const Four*>(from + part * a.pitch));
#pragma unroll
            for (int i = 0; i < 4; ++i) sum.v[i] += term.v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum.v[i] += qb::shfl_xor(sum.v[i], 8);
        sum.v[i] += qb::shfl_xor(sum.v[i], 16);
    }
    if (threadIdx.x % 32 < COLUMN_SUM_LANES) warps[threadIdx.x / 32 * COLUMN_SUM_LANES + lane] = sum;
    __syncthreads();
    if (threadIdx.x >= COLUMN_SUM_LANES) return;
    for (int warp = 1; warp < blockDim.x / 32; ++warp)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum.v[i] += warps[warp * COLUMN_SUM_LANES + lane].v[i];
    T* const to = static_cast<T*>(a.outputs[which / a.groups]) + which % a.groups * a.columns + column;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (column + i < a.columns) to[i] = qb::from_float<T>(sum.v[i]);
}
