// y = tanh(alpha · x) · weight + bias, and its gradients: a norm's place taken without statistics.
//
// A block has `across` threads along a row, each with 16 bytes of it, and the others down the rows, so
// that a thread keeps its columns: their weights are loaded once, and their gradients summed in registers.
#include "moments.cuh"
#include "row.cuh"

using namespace qb;

constexpr int BLOCK = 256;

// A number on the device in one of the three dtypes: 0 float, 1 half, 2 bfloat16.
struct Number {
    const void* at;
    int kind;

    __device__ __forceinline__ float value() const {
        if (kind == 0) return *static_cast<const float*>(at);
        return kind == 1 ? to_float(*static_cast<const __half*>(at)) : to_float(*static_cast<const __nv_bfloat16*>(at));
    }
};

// Where a thread is: its first column, and its rows from `row` on, `step` apart.
struct Walk {
    long long column, row, step;
    int live;  // its columns that exist, at most those of a vector

    __device__ __forceinline__ Walk(int across, int lanes, long long columns) {
        column = (static_cast<long long>(blockIdx.x) * across + threadIdx.x % across) * lanes;
        const int down = BLOCK / across;
        row = static_cast<long long>(blockIdx.y) * down + threadIdx.x / across;
        step = static_cast<long long>(gridDim.y) * down;
        live = static_cast<int>(max(0LL, min(columns - column, static_cast<long long>(lanes))));
    }
};

template <int WIDTH, class W, int N>
__device__ __forceinline__ void load_floats(const void* from, const Walk& walk, float missing, float (&to)[N]) {
#pragma unroll
    for (int e = 0; e < N; ++e) to[e] = missing;
    if (!from) return;
    const auto part = load_part<WIDTH, false, N>(static_cast<const W*>(from) + walk.column, walk.live);
#pragma unroll
    for (int e = 0; e < N; ++e) to[e] = element(part, e);
}

struct DynamicTanh {
    const void* x;
    const void* weight;  // null: 1
    const void* bias;    // null: 0
    void* y;
    Number alpha;
    long long rows, columns, x_stride;
    int across;
};

template <class T, class W, int WIDTH>
__global__ void __launch_bounds__(BLOCK, 4) dynamic_tanh(const __grid_constant__ DynamicTanh args) {
    constexpr int LANES = LANES_OF<T>, ROWS = 2;  // of a thread at once: loads under way
    const Walk walk(args.across, LANES, args.columns);
    wait_for_previous_grid();
    const float alpha = args.alpha.value();
    float weight[LANES], bias[LANES];
    load_floats<WIDTH, W>(args.weight, walk, 1.0f, weight);
    load_floats<WIDTH, W>(args.bias, walk, -0.0f, bias);  // changes no value, not even -0
    const T* x = static_cast<const T*>(args.x) + walk.column;
    T* y = static_cast<T*>(args.y) + walk.column;
    if (walk.live == 0) return;

    for (long long row = walk.row; row < args.rows; row += ROWS * walk.step) {
        Packed<T> held[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k)
            if (row + k * walk.step < args.rows)
                held[k] = load_part<WIDTH, true, LANES>(x + (row + k * walk.step) * args.x_stride, walk.live);
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            if (row + k * walk.step >= args.rows) continue;
            float out[LANES];
#pragma unroll
            for (int e = 0; e < LANES; ++e) out[e] = fmaf(tanhf(alpha * element(held[k], e)), weight[e], bias[e]);
            store_part<WIDTH>(y + (row + k * walk.step) * args.columns, rounded<T>(out), walk.live);
        }
    }
}

struct DynamicTanhBackward {
    const void* dy;
    const void* x;
    const void* weight;  // null: 1
    void* dx;            // null, as those below: not asked for
    float* dweight;      // partial sums, (gridDim.y, pitch)
    float* dbias;        // likewise
    float* dalpha;       // partial sums, (gridDim.y · gridDim.x, 4), the first of four
    Number alpha;
    long long rows, columns, dy_stride, x_stride, pitch;
    int across;
};

// Sums of the columns of a block over its threads, in the order of its rows, into a row of `partial`.
template <int LANES>
__device__ __forceinline__ void sum_down(const float (&sums)[LANES], const DynamicTanhBackward& args, float* partial) {
    if (!partial) return;
    float* shared = reinterpret_cast<float*>(extern_shared());
    __syncthreads();
#pragma unroll
    for (int e = 0; e < LANES; ++e) shared[threadIdx.x * LANES + e] = sums[e];
    __syncthreads();
    const int columns = args.across * LANES;
    for (int c = threadIdx.x; c < columns; c += BLOCK) {
        float sum = 0.0f;
        for (int at = c; at < BLOCK * LANES; at += columns) sum += shared[at];
        const long long column = static_cast<long long>(blockIdx.x) * columns + c;
        if (column < args.columns) partial[blockIdx.y * args.pitch + column] = sum;
    }
}

template <class T, class W, int WIDTH>
__global__ void __launch_bounds__(BLOCK, 2) dynamic_tanh_backward(const __grid_constant__ DynamicTanhBackward args) {
    constexpr int LANES = LANES_OF<T>, ROWS = 2;
    QB_SHARED(Sums<1>, scratch, MOST_WARPS);
    const Walk walk(args.across, LANES, args.columns);
    wait_for_previous_grid();
    const float alpha = args.alpha.value();
    float weight[LANES], dweight[LANES] = {}, dbias[LANES] = {};
    Sums<1> dalpha{};
    load_floats<WIDTH, W>(args.weight, walk, 1.0f, weight);
    const T* x = static_cast<const T*>(args.x) + walk.column;
    const T* dy = static_cast<const T*>(args.dy) + walk.column;

    for (long long row = walk.row; walk.live && row < args.rows; row += ROWS * walk.step) {
        Packed<T> value[ROWS], incoming[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const long long at = row + k * walk.step;
            if (at >= args.rows) continue;
            value[k] = load_part<WIDTH, true, LANES>(x + at * args.x_stride, walk.live);
            incoming[k] = load_part<WIDTH, true, LANES>(dy + at * args.dy_stride, walk.live);
        }
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const long long at = row + k * walk.step;
            if (at >= args.rows) continue;
            float out[LANES];
#pragma unroll
            for (int e = 0; e < LANES; ++e) {
                const float v = element(value[k], e), g = element(incoming[k], e);
                const float t = tanhf(alpha * v);
                const float slope = g * weight[e] * fmaf(-t, t, 1.0f);
                out[e] = slope * alpha;
                dalpha.v[0] = fmaf(slope, v, dalpha.v[0]);
                dweight[e] = fmaf(g, t, dweight[e]);
                dbias[e] += g;
            }
            if (args.dx)
                store_part<WIDTH>(static_cast<T*>(args.dx) + walk.column + at * args.columns, rounded<T>(out), walk.live);
        }
    }
    release_next_grid();
    sum_down(dweight, args, args.dweight);
    sum_down(dbias, args, args.dbias);
    if (!args.dalpha) return;
    dalpha = over_block(dalpha, scratch);
    if (threadIdx.x == 0) args.dalpha[4LL * (blockIdx.y * gridDim.x + blockIdx.x)] = dalpha.v[0];
}
