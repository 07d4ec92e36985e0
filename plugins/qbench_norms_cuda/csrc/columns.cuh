// Images whose channels are contiguous (NHWC, and (images, channels)): sums down the columns of a matrix.
//
// A thread has a vector of 16 bytes of channels and walks down the positions; `lanes` threads lie side by
// side, the other threads of the block start on the rows below.
#pragma once
#include "image_norm.cuh"

constexpr int COLUMN_ITEMS = 4;

struct ColumnOrder {
    static __device__ __forceinline__ long long offset(const ImageArgs& a, long long image, long long channel) {
        return image * a.positions * a.channels + channel;
    }
};

/// What a thread has of a matrix: `live` channels from `channel` on, of the rows first, first + step, ...
/// before `end`.
template <class T>
struct Strip {
    long long channel, first, end, step;
    int live;

    __device__ __forceinline__ long long element(const ImageArgs& a, long long row) const {
        return row * a.channels + channel;
    }
};

template <int WIDTH, class T>
__device__ __forceinline__ Words<T> load_row(const T* from, int live, bool there) {
    return load_words<WIDTH, false>(from, there ? live : 0);
}

/// Sums of one column in double: for squares that float32 does not hold.
template <class T>
__device__ __forceinline__ Pair exact_column(const ImageArgs& a, const Strip<T>& strip, const T* x, int e, float pivot) {
    Pair sums = {0.0, 0.0};
#pragma unroll 1
    for (long long row = strip.first; row < strip.end; row += strip.step) {
        const double d = static_cast<double>(qb::to_float(x[strip.element(a, row) + e])) - pivot;
        sums = sums + Pair{d, d * d};
    }
    return sums;
}

/// Forward sums of a strip into sums[e]. Distances are those to the mean of the first rows, which is close
/// to the values, or as far as one of them is from the others.
template <class Norm, int WIDTH, class T>
__device__ __forceinline__ void forward_strip(const ImageArgs& a, long long image, const Strip<T>& strip, Pair* sums) {
    constexpr int LANES = ELEMENTS<T>;
    const T* const x = static_cast<const T*>(a.x) + ColumnOrder::offset(a, image, 0);
    float centre[LANES], residues[LANES], squares[LANES];
    float count = 0.0f;
    for (long long row = strip.first; row < strip.end; row += COLUMN_ITEMS * strip.step) {
        Words<T> held[COLUMN_ITEMS];
        int rows = 0;
#pragma unroll
        for (int i = 0; i < COLUMN_ITEMS; ++i) {
            const bool there = row + i * strip.step < strip.end;
            held[i] = load_row<WIDTH>(x + strip.element(a, there ? row + i * strip.step : row), strip.live, there);
            rows += there;
        }
        if (count == 0.0f) {
#pragma unroll
            for (int e = 0; e < LANES; ++e) {
                float total = 0.0f;  // rows that are not there are zeros
#pragma unroll
                for (int i = 0; i < COLUMN_ITEMS; ++i) total += held[i].at(e);
                centre[e] = total / static_cast<float>(rows);
                residues[e] = squares[e] = 0.0f;
            }
        }
        count += rows;
#pragma unroll
        for (int i = 0; i < COLUMN_ITEMS; ++i) {
            if (i >= rows) break;
#pragma unroll
            for (int e = 0; e < LANES; ++e) {
                const float d = held[i].at(e) - centre[e];
                residues[e] += d;
                squares[e] = fmaf(d, d, squares[e]);
            }
        }
    }
    unsigned beyond = 0;  // a bit for each channel whose squares float32 does not hold
#pragma unroll
    for (int e = 0; e < LANES; ++e) {
        if (count == 0.0f || e >= strip.live) {
            sums[e] = {0.0, 0.0};
            continue;
        }
        const float pivot = pivot_of<Norm, ColumnOrder, T>(a, image, strip.channel + e);
        sums[e] = about_pivot(count, centre[e], residues[e], squares[e], pivot);
        if (!in_range(a, squares[e])) beyond |= 1u << e;
    }
#pragma unroll 1
    for (int e = 0; beyond >> e; ++e)
        if (beyond >> e & 1) sums[e] = exact_column(a, strip, x, e, pivot_of<Norm, ColumnOrder, T>(a, image, strip.channel + e));
}

template <class Norm, int WIDTH, class T>
__device__ __forceinline__ void backward_strip(const ImageArgs& a, long long image, const Strip<T>& strip, Pair* sums) {
    constexpr int LANES = ELEMENTS<T>, ITEMS = COLUMN_ITEMS / 2;
    const long long start = ColumnOrder::offset(a, image, 0);
    const T* const x = static_cast<const T*>(a.x) + start;
    const T* const dy = static_cast<const T*>(a.dy) + start;
    float mean[LANES], scale[LANES], level[LANES], tilt[LANES];
#pragma unroll
    for (int e = 0; e < LANES; ++e) {
        mean[e] = 0.0f, scale[e] = 1.0f;
        if (e < strip.live) {
            const Statistics s = a.statistics[set_of<Norm>(a, image, strip.channel + e)];
            mean[e] = s.mean, scale[e] = s.scale();
        }
        level[e] = tilt[e] = 0.0f;
    }
    for (long long row = strip.first; row < strip.end; row += ITEMS * strip.step) {
        Words<T> held[ITEMS], incoming[ITEMS];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const bool there = row + i * strip.step < strip.end;
            const long long element = strip.element(a, there ? row + i * strip.step : row);
            held[i] = load_row<WIDTH>(x + element, strip.live, there);
            incoming[i] = load_row<WIDTH>(dy + element, strip.live, there);
        }
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            if (row + i * strip.step >= strip.end) break;
#pragma unroll
            for (int e = 0; e < LANES; ++e) {
                const float d = incoming[i].at(e);
                level[e] += d;
                tilt[e] = fmaf(d, (held[i].at(e) - mean[e]) * scale[e], tilt[e]);
            }
        }
    }
#pragma unroll
    for (int e = 0; e < LANES; ++e) sums[e] = {level[e], static_cast<double>(tilt[e]) * (1.0f / scale[e])};
}

/// First kernel. Blocks: unit tiles · units · parts · images, tiles first; threads: IMAGE_THREADS.
/// Shared: IMAGE_THREADS · 16 / sizeof(T) pairs.
template <class Norm, class T, int WIDTH, bool BACKWARD>
__global__ void __launch_bounds__(IMAGE_THREADS, 3) column_sums(const __grid_constant__ ImageArgs a) {
    constexpr int LANES = ELEMENTS<T>;
    Pair* const scratch = reinterpret_cast<Pair*>(qb::extern_shared());
    qb::wait_for_previous_grid();
    qb::release_next_grid();
    const int lanes = static_cast<int>(a.lanes), walkers = IMAGE_THREADS / lanes;
    const int lane = threadIdx.x % lanes, walker = threadIdx.x / lanes, columns = lanes * LANES;
    const long long tiles = a.unit_tiles * a.units;
    const long long tile = blockIdx.x % tiles, part = blockIdx.x / tiles % a.parts, image = blockIdx.x / tiles / a.parts;

    if (walker < walkers) {
        const long long channel = tile * columns + lane * LANES, begin = part * a.width;
        const Strip<T> strip = {channel, begin + walker, smaller(begin + a.width, a.positions), walkers,
                                static_cast<int>(smaller(LANES, a.channels - channel))};
        Pair* const sums = scratch + threadIdx.x * LANES;
        if (strip.live <= 0) {
#pragma unroll
            for (int e = 0; e < LANES; ++e) sums[e] = {0.0, 0.0};
        } else if (BACKWARD) {
            backward_strip<Norm, WIDTH>(a, image, strip, sums);
        } else {
            forward_strip<Norm, WIDTH>(a, image, strip, sums);
        }
    }
    __syncthreads();
    for (int left = walkers; left > 1;) {
        const int half = (left + 1) / 2;
        for (int i = threadIdx.x; i < (left - half) * columns; i += IMAGE_THREADS)
            scratch[i] = scratch[i] + scratch[i + half * columns];
        __syncthreads();
        left = half;
    }
    const long long first = tile * columns;
    const int wide = static_cast<int>(smaller(columns, a.channels - first));
    for (int c = threadIdx.x; c < wide; c += IMAGE_THREADS)
        a.partials[(image * a.parts + part) * a.channels + first + c] = scratch[c];

    // Parts are added up by many blocks at once, each the last of `fan`, before one block finishes a unit.
    unsigned* arrivals = a.arrivals;
    const long long which = part / a.fan;
    if (a.fan > 1) {
        const int parts = static_cast<int>(smaller(a.fan, a.parts - which * a.fan));
        if (!last_to_arrive(arrivals + (image * a.fans + which) * tiles + tile, parts)) return;
        sum_sets(
            wide, parts, scratch,
            [&](int c, int e) {
                return a.partials[(image * a.parts + which * a.fan + e) * a.channels + first + c];
            },
            [&](int c, Pair sums) { a.totals[(image * a.fans + which) * a.channels + first + c] = sums; });
        arrivals += a.images * a.fans * tiles;
    }
    finish_unit<Norm, ColumnOrder, T, BACKWARD>(a, image, tile / a.unit_tiles, arrivals, a.unit_tiles * a.fans, scratch);
}

/// Second kernel; walks back from what was read last. Blocks: tiles · parts · images, tiles first.
/// Shared: lanes · 16 / sizeof(T) coefficients, and IMAGE_THREADS pairs at least for a backward.
template <class Norm, class T, int WIDTH, class Step>
__global__ void __launch_bounds__(IMAGE_THREADS, 3) column_apply(const __grid_constant__ ImageArgs a) {
    constexpr int LANES = ELEMENTS<T>, ITEMS = Step::BACKWARD ? COLUMN_ITEMS / 2 : COLUMN_ITEMS;
    qb::wait_for_previous_grid();
    if (Step::BACKWARD) put_parameter_gradients(a, reinterpret_cast<Pair*>(qb::extern_shared()), blockIdx.x, gridDim.x);

    const int lanes = static_cast<int>(a.lanes), walkers = IMAGE_THREADS / lanes;
    const long long tiles = a.unit_tiles * a.units;
    const long long block = gridDim.x - 1ll - blockIdx.x;
    const long long tile = block % tiles, part = block / tiles % a.parts, image = block / tiles / a.parts;
    const long long channel = (tile * lanes + threadIdx.x % lanes) * LANES;
    const int live = static_cast<int>(smaller(LANES, a.channels - channel)), walker = threadIdx.x / lanes;

    Coefficients* const shared = reinterpret_cast<Coefficients*>(qb::extern_shared());
    const long long first = tile * lanes * LANES;
    for (int c = threadIdx.x; c < lanes * LANES && first + c < a.channels; c += IMAGE_THREADS)
        shared[c] = Step::at(a, (Norm::OVER_IMAGES ? 0 : image * a.channels) + first + c);
    __syncthreads();
    if (walker >= walkers || live <= 0) return;

    Coefficients k[LANES];
#pragma unroll
    for (int e = 0; e < LANES; ++e) k[e] = shared[threadIdx.x % lanes * LANES + e];

    const long long start = ColumnOrder::offset(a, image, channel);
    const T* const x = static_cast<const T*>(a.x) + start;
    const T* const dy = static_cast<const T*>(a.dy) + (Step::BACKWARD ? start : 0);
    T* const out = static_cast<T*>(a.out) + start;
    const long long end = smaller((part + 1) * a.width, a.positions);
    for (long long row = part * a.width + walker; row < end; row += ITEMS * walkers) {
        Words<T> held[ITEMS], incoming[ITEMS];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const bool there = row + i * walkers < end;
            const long long element = (there ? row + i * walkers : row) * a.channels;
            held[i] = load_words<WIDTH, true>(x + element, there ? live : 0);
            if (Step::BACKWARD) incoming[i] = load_words<WIDTH, true>(dy + element, there ? live : 0);
        }
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            if (row + i * walkers >= end) break;
            Words<T> made;
#pragma unroll
            for (int e = 0; e < LANES; ++e)
                put(made, e, applied<Step::BACKWARD>(k[e], held[i].at(e), Step::BACKWARD ? incoming[i].at(e) : 0.0f));
            store_words<WIDTH>(out + (row + i * walkers) * a.channels, made, live);
        }
    }
}
