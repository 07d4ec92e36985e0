// RMSNorm of the heads of queries and keys, both in one launch: y = x / sqrt(mean(x²) + eps) · weight.
#include "moments.cuh"
#include "row.cuh"

using namespace qb;

// Queries or keys: rows of `width` elements, each at a place (batch, outer, inner).
struct Heads {
    const void* x;
    const void* weight;  // null: 1
    void* y;             // dense: every place of `width` elements is a row's
    float* rstd;         // null: not kept; else of each row, by its place in y
    long long rows, outer, inner;
    long long x_strides[3], y_strides[3];  // of batch, outer and inner, in elements
};

struct QkNorm {
    Heads heads[2];
    int width;
    float weight_offset, eps;
};

// Offset of a row in a tensor of those strides.
template <class Index>
__device__ __forceinline__ long long offset_of(Index row, const Heads& heads, const long long (&strides)[3]) {
    const Index outer = static_cast<Index>(heads.outer), inner = static_cast<Index>(heads.inner);
    const Index above = row / inner;
    return above / outer * strides[0] + above % outer * strides[1] + row % inner * strides[2];
}

__device__ __forceinline__ long long offset_of_row(long long row, const Heads& heads,
                                                   const long long (&strides)[3]) {
    // Divisions of 64 bits take ten times as long, and few tensors need them.
    return heads.rows <= 0x7fffffffLL ? offset_of(static_cast<unsigned>(row), heads, strides)
                                      : offset_of(static_cast<unsigned long long>(row), heads, strides);
}

// Sum of the squares of a row, each value times `factor` before.
template <int THREADS, class T, int ITEMS>
__device__ __forceinline__ float squares_of(InRegisters<T, ITEMS>& held, float factor) {
    Sums<1> sum{};
    each_item(held, [&](int i) {
#pragma unroll
        for (int e = 0; e < LANES_OF<T>; ++e) {
            const float value = element(held[i], e) * factor;
            sum.v[0] = fmaf(value, value, sum.v[0]);
        }
    });
    return over_lanes<THREADS>(sum).v[0];
}

// Squares of values near 1e30 overflow, those of 1e-30 vanish beside no eps: a power of two, which
// changes no digit, to multiply values with instead.
__device__ __forceinline__ float factor_for(float squares, float eps) {
    if (isinf(squares)) return 0x1p-80f;
    return squares < 0x1p-100f && eps < 0x1p-90f ? 0x1p80f : 1.0f;
}

constexpr int BLOCK = 256;

// THREADS threads a row, ITEMS vectors each. WIDTH: elements of an access.
template <class T, class W, int WIDTH, int THREADS, int ITEMS>
__global__ void __launch_bounds__(BLOCK) qk_norm(const __grid_constant__ QkNorm args) {
    constexpr int LANES = LANES_OF<T>;
    const Heads& heads = args.heads[blockIdx.y];
    if (heads.rows == 0) return;
    long long row = static_cast<long long>(blockIdx.x) * (BLOCK / THREADS) + threadIdx.x / THREADS;
    const bool there = row < heads.rows;
    if (!there) row = heads.rows - 1;  // its lanes still take part in shuffles
    const Place<T> place{static_cast<int>(threadIdx.x) % THREADS, THREADS, args.width};

    wait_for_previous_grid();
    const T* x = static_cast<const T*>(heads.x) + offset_of_row(row, heads, heads.x_strides);
    InRegisters<T, ITEMS> held;
    each_item(held, [&](int i) {
        held[i] = load_part<WIDTH, true, LANES>(x + place.column(i), place.live(i));
    });

    float squares = squares_of<THREADS>(held, 1.0f);
    const float factor = factor_for(squares, args.eps);
    if (__any_sync(WHOLE_WARP, factor != 1.0f)) squares = squares_of<THREADS>(held, factor);
    const float n = static_cast<float>(args.width);
    const float rstd = inv_sqrt(divide(squares, n) + args.eps * factor * factor);

    if (!there) return;
    const long long offset = offset_of_row(row, heads, heads.y_strides);
    if (heads.rstd && place.first == 0) heads.rstd[offset / args.width] = rstd * factor;
    each_item(held, [&](int i) {
        const int column = place.column(i), live = place.live(i);
        if (live <= 0) return;
        const bool weighted = heads.weight != nullptr;
        Vec<W, LANES> weight;
        if (weighted) weight = load_part<WIDTH, false, LANES>(static_cast<const W*>(heads.weight) + column, live);
        float y[LANES];
#pragma unroll
        for (int e = 0; e < LANES; ++e) {
            const float scale = weighted ? rstd * (element(weight, e) + args.weight_offset) : rstd;
            y[e] = element(held[i], e) * factor * scale;
        }
        store_part<WIDTH>(static_cast<T*>(heads.y) + offset + column, rounded<T>(y), live);
    });
}
