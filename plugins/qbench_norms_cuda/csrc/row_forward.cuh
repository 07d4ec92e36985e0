// Norms of rows: the sum with a residual in front, statistics, affine, and what is written of it.
//
// A row is read once: it is held in registers by 8 to 512 threads, in the shared memory of one block or
// of a cluster, or (longer still) cut into slices that a first launch describes and a second writes.
#pragma once
#include "moments.cuh"
#include "quantize.cuh"
#include "row.cuh"

namespace qb {

/// A matrix with a row for each batch or each token: row r of x has row (r / tokens, r % tokens).
struct Rows {
    const void* values;
    long long batch_stride, token_stride;

    template <class T>
    __device__ __forceinline__ const T* of(long long row, long long tokens) const {
        const T* found = static_cast<const T*>(values);
        if (found != nullptr && (batch_stride | token_stride) != 0)
            found += row / tokens * batch_stride + row % tokens * token_stride;
        return found;
    }
};

/// Null pointers: not there, or not asked for. Strides in elements.
struct RowForward {
    const void *x, *residual;
    Rows gate, weight, bias;
    void *y, *total;
    float* scales;
    const float* given_scale;
    float *offset, *rstd;
    void* partials;
    float* largest;
    long long rows, n, x_stride, residual_stride, tokens;
    int items;
    float eps, weight_offset;
};

/// What one launch does: all, or a step of rows in slices.
enum Stage { WHOLE, DESCRIBE, ENLARGE, WRITE };

constexpr int SLICE = 8192;
constexpr int ATTEMPTS = 3;
/// Threads of a block that has several rows.
constexpr int SEVERAL = 128;

/// Squares of values near 1e30 overflow, those of 1e-30 vanish: statistics of values times these instead.
__device__ __forceinline__ float factor_of(int attempt) {
    return attempt == 0 ? 1.0f : attempt == 1 ? 0x1p-80f : 0x1p80f;
}

/// What is subtracted from a row (as a sum of two floats), and what it is multiplied with.
struct Standard {
    float centre, rest, rstd;

    template <bool CENTRED, bool EXACT>
    __device__ __forceinline__ float operator()(float x) const {
        if constexpr (!CENTRED) return x * rstd;
        if constexpr (EXACT) return ((x - centre) - rest) * rstd;
        return (x - centre) * rstd;
    }
};

template <class T, int WIDTH>
struct RowInput {
    const T *x, *residual, *gate;

    /// The sum in front of the norm, rounded to its dtype.
    static __device__ __forceinline__ Packed<T> sum(const Packed<T>& x, const Packed<T>& r, const Packed<T>* gate) {
        float out[LANES_OF<T>];
#pragma unroll
        for (int e = 0; e < LANES_OF<T>; ++e) {
            const float value = element(x, e), other = element(r, e);
            out[e] = gate ? fmaf(element(*gate, e), value, other) : value + other;
        }
        return rounded<T>(out);
    }

    __device__ __forceinline__ Packed<T> first(int n) const {
        constexpr int V = LANES_OF<T>;
        const Packed<T> value = load_part<WIDTH, false, V>(x, n);
        if (residual == nullptr) return value;
        const Packed<T> other = load_part<WIDTH, false, V>(residual, n);
        if (gate == nullptr) return sum(value, other, nullptr);
        const Packed<T> factor = load_part<WIDTH, false, V>(gate, n);
        return sum(value, other, &factor);
    }
};

/// Vectors of a thread's items begin to begin + ROUND, loaded before any is used: all are under way at once.
template <int WIDTH, bool STREAM, int ROUND, class E, int V, class T>
__device__ __forceinline__ void read_round(Vec<E, V> (&into)[ROUND], const E* from, const Place<T>& place, int begin, int items) {
#pragma unroll
    for (int k = 0; k < ROUND; ++k)
        if (begin + k < items)
            into[k] = load_part<WIDTH, STREAM, V>(place.item(from, begin + k), place.live(begin + k));
}

/// Reads a thread's share of a row; adds the residual, if any, and writes the sum.
template <int WIDTH, int LANES, class T, class HELD>
__device__ __forceinline__ void read_row(HELD& held, const Place<T>& place, const RowInput<T, WIDTH>& in, T* total) {
    constexpr int V = LANES_OF<T>;
    // Shifting takes registers of its own.
    constexpr int ROUND = WIDTH < V ? at_most(HELD::PER_ROUND, 2) : HELD::PER_ROUND;
#pragma unroll(HELD::ROUNDS_UNROLLED)
    for (int begin = 0; begin < held.items(); begin += ROUND) {
        Packed<T> values[ROUND];
        read_round<WIDTH, true>(values, in.x, place, begin, held.items());
#pragma unroll
        for (int k = 0; k < ROUND; ++k)
            if (begin + k < held.items()) held[begin + k] = values[k];
    }
    if (in.residual == nullptr) return;
#pragma unroll(HELD::ROUNDS_UNROLLED)
    for (int begin = 0; begin < held.items(); begin += ROUND) {
        Packed<T> others[ROUND];
        read_round<WIDTH, true>(others, in.residual, place, begin, held.items());
#pragma unroll
        for (int k = 0; k < ROUND; ++k) {
            const int i = begin + k;
            if (i >= held.items()) continue;
            if (in.gate != nullptr) {
                const Packed<T> gate = load_part<WIDTH, false, V>(place.item(in.gate, i), place.live(i));
                held[i] = in.sum(held[i], others[k], &gate);
            } else {
                held[i] = in.sum(held[i], others[k], nullptr);
            }
            if (total != nullptr) store_row<WIDTH, LANES>(place.item(total, i), held[i], place.live(i));
        }
    }
}

/// Count, mean and squares of (x − pivot) · factor of one thread: two passes over what it holds.
template <int WIDTH, class T, class HELD>
__device__ __forceinline__ Moments described(HELD& held, const Place<T>& at, float pivot, float factor, Moments) {
    float sum = 0.0f, m2 = 0.0f;
    int count = 0;
    held.forget();
    Place<T> place = again<WIDTH>(at);
    each_item(held, [&](int i) {
        sum += sum_of<WIDTH>(held[i], place.live(i), [&](float x) { return (x - pivot) * factor; });
        count += max(0, min(place.live(i), LANES_OF<T>));
    });
    held.forget();
    place = again<WIDTH>(at);
    const float mean = count > 0 ? sum / static_cast<float>(count) : 0.0f;
    each_item(held, [&](int i) {
        m2 += sum_of<WIDTH>(held[i], place.live(i), [&](float x) {
            const float apart = (x - pivot) * factor - mean;
            return apart * apart;
        });
    });
    return {static_cast<float>(count), mean, m2};
}

/// Sum of the squares of x · factor of one thread.
template <int WIDTH, class T, class HELD>
__device__ __forceinline__ Sums<1> described(HELD& held, const Place<T>& at, float, float factor, Sums<1>) {
    float sum = 0.0f;
    held.forget();
    const Place<T> place = again<WIDTH>(at);
    each_item(held, [&](int i) {
        sum += sum_of<WIDTH>(held[i], place.live(i), [&](float x) { return x * factor * (x * factor); });
    });
    return {{sum}};
}

__device__ __forceinline__ float squares_of(Moments s) { return s.m2; }
__device__ __forceinline__ float squares_of(Sums<1> s) { return s.v[0]; }
__device__ __forceinline__ float mean_of(Moments s) { return s.mean; }
__device__ __forceinline__ float mean_of(Sums<1>) { return 0.0f; }

/// Merged over the threads of a row: LANES of a warp, or a block, or a cluster of them.
template <int LANES, bool CLUSTER, class S>
__device__ __forceinline__ S over_row(S s, S* scratch) {
    if constexpr (LANES <= WARP) {
        return over_lanes<LANES>(s);
    } else {
        s = over_block(s, scratch);
        if constexpr (CLUSTER) s = over_cluster(s, scratch + MOST_WARPS);
        return s;
    }
}

/// Merged over what the blocks of an earlier launch left of a row.
template <class S>
__device__ __forceinline__ S over_parts(const S* parts, long long count, S* scratch) {
    S s{};
#pragma unroll 1
    for (long long k = threadIdx.x; k < count; k += blockDim.x) s = merged(s, parts[k]);
    return over_block(s, scratch);
}

/// Before scratch is used a second time.
template <int LANES, bool CLUSTER>
__device__ __forceinline__ void row_sync() {
    if constexpr (CLUSTER) cluster_sync();
    else if constexpr (LANES > WARP) __syncthreads();
}

/// What is subtracted before anything is summed: the middle of the first four elements. Near the mean of
/// the row even where one of them is far from it, and exactly it where all are the same.
template <class T>
__device__ __forceinline__ float pivot_of(const Packed<T>& first, long long n) {
    if (n < 4) return element(first, 0);
    const float a = element(first, 0), b = element(first, 1), c = element(first, 2), d = element(first, 3);
    return 0.5f * fmaxf(fminf(a, b), fminf(c, d)) + 0.5f * fminf(fmaxf(a, b), fmaxf(c, d));
}

/// Where a block's threads are: their row, their vectors of it, and the elements before their slice.
template <class T>
struct Position {
    long long row, begin;
    Place<T> place;
    /// Whether there is such a row, and whether this thread writes what a row has once.
    bool exists, leads;
    /// Slice of the row, of how many.
    long long part, parts;
};

template <class T, int LANES, int ITEMS, Stage STAGE>
__device__ __forceinline__ Position<T> position_of(const RowForward& a) {
    if constexpr (STAGE != WHOLE) {
        const long long parts = (a.n + SLICE - 1) / SLICE;
        // The slices described last are written first: they may still be in the second-level cache.
        const long long block = STAGE == DESCRIBE ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
        const long long row = block / parts, part = block % parts, begin = part * SLICE;
        const int n = static_cast<int>(min(a.n - begin, static_cast<long long>(SLICE)));
        const int thread = threadIdx.x;
        return {row, begin, {thread, LANES, n}, true, thread == 0 && part == 0, part, parts};
    } else if constexpr (LANES <= WARP) {
        const int thread = threadIdx.x % LANES;
        const long long row = static_cast<long long>(blockIdx.x) * (SEVERAL / LANES) + threadIdx.x / LANES;
        const bool exists = row < a.rows;
        return {row, 0, {thread, LANES, exists ? static_cast<int>(a.n) : 0}, exists, exists && thread == 0, 0, 1};
    } else {
        const int blocks = ITEMS == 0 ? cluster_size() : 1, rank = ITEMS == 0 ? cluster_rank() : 0;
        const int first = rank * a.items * LANES + threadIdx.x;
        return {blockIdx.x / blocks, 0, {first, LANES, static_cast<int>(a.n)}, true, first == 0, 0, 1};
    }
}

template <class T, int ITEMS>
struct Holding {
    using type = InRegisters<T, ITEMS>;
};
template <class T>
struct Holding<T, 0> {
    using type = InShared<T>;
};

template <int LANES, class T, int ITEMS>
__device__ __forceinline__ void place_storage(InRegisters<T, ITEMS>&, const RowForward&) {}
template <int LANES, class T>
__device__ __forceinline__ void place_storage(InShared<T>& held, const RowForward& a) {
    held.v = reinterpret_cast<Packed<T>*>(extern_shared()) + threadIdx.x;
    held.count = a.items;
    held.step = LANES;
}

/// From statistics of a row to what standardizes it. `whole(attempt)` gives the statistics.
template <class NORM, int LANES, bool CLUSTER, class F>
__device__ __forceinline__ Standard standard_of(const RowForward& a, float pivot, float first, bool leads, long long row, F whole) {
    decltype(whole(0)) s;
    int attempt = 0;
#pragma unroll 1
    for (bool again = false;; again = true) {
        s = whole(attempt);
        if (again) break;
        const float squares = squares_of(s);
        attempt = !(squares <= 1e37f) ? 1 : a.eps == 0.0f && squares < 1e-25f ? 2 : 0;
        // Rows of one warp go on together, each with its own attempt.
        if (LANES <= WARP ? !__any_sync(WHOLE_WARP, attempt) : attempt == 0) break;
        row_sync<LANES, CLUSTER>();
    }
    const float factor = factor_of(attempt);
    const float mean_square = NORM::MEAN ? squares_of(s) / static_cast<float>(a.n) : squares_of(s);
    const float rstd = inv_sqrt(mean_square + a.eps * factor * factor) * factor;
    const float from_pivot = mean_of(s) / factor;
    if (leads && a.rstd != nullptr) a.rstd[row] = rstd;
    if (leads && a.offset != nullptr) a.offset[row] = (pivot - first) + from_pivot;
    // Knuth: centre + rest is pivot + from_pivot exactly.
    const float centre = pivot + from_pivot, back = centre - pivot;
    return {centre, (pivot - (centre - back)) + (from_pivot - back), rstd};
}

/// Weights or biases of the items of a round; `otherwise` where there are none.
template <int WIDTH, class T, class W, int V, int ROUND>
__device__ __forceinline__ void read_affine(Vec<W, V> (&into)[ROUND], const W* from, float otherwise, const Place<T>& place, int begin, int items) {
    float same[V];
#pragma unroll
    for (int e = 0; e < V; ++e) same[e] = otherwise;
#pragma unroll
    for (int k = 0; k < ROUND; ++k) into[k] = rounded<W>(same);
    if (from != nullptr) read_round<WIDTH, false>(into, from, place, begin, items);
}

/// Calls emit(i, y) for each item of a thread, y rounded to the dtype of x.
template <class NORM, class W, int WIDTH, class T, class HELD, class F>
__device__ __forceinline__ void each_normalized(HELD& held, const Position<T>& at, const Standard& standard, const RowForward& a, F emit) {
    constexpr int V = LANES_OF<T>;
    constexpr int ROUND = WIDTH < V ? 1 : at_most(HELD::PER_ROUND, 32 / static_cast<int>(sizeof(Vec<W, V>)));
    constexpr bool EXACT = sizeof(T) == 4;
    held.forget();
    const W *weight = nullptr, *bias = nullptr;
    float row_weight = 1.0f;
    if constexpr (NORM::WEIGHT_OF_ROW) {
        if (at.exists && a.weight.values != nullptr)
            row_weight = to_float(static_cast<const W*>(a.weight.values)[at.row]) + a.weight_offset;
    } else {
        weight = a.weight.template of<W>(at.row, a.tokens);
        bias = a.bias.template of<W>(at.row, a.tokens);
        if (weight != nullptr) weight += at.begin;
        if (bias != nullptr) bias += at.begin;
    }
    const float more = weight != nullptr ? a.weight_offset : 0.0f;
#pragma unroll(HELD::ROUNDS_UNROLLED)
    for (int begin = 0; begin < held.items(); begin += ROUND) {
        Vec<W, V> weights[ROUND], biases[ROUND];
        if constexpr (!NORM::WEIGHT_OF_ROW) {
            read_affine<WIDTH>(weights, weight, 1.0f, at.place, begin, held.items());
            read_affine<WIDTH>(biases, bias, 0.0f, at.place, begin, held.items());
        }
#pragma unroll
        for (int k = 0; k < ROUND; ++k) {
            if (begin + k >= held.items()) continue;
            const Packed<T> x = held[begin + k];
            float y[V];
#pragma unroll
            for (int e = 0; e < V; ++e) {
                const float value = standard.template operator()<NORM::CENTRED, EXACT>(element(x, e));
                if constexpr (NORM::WEIGHT_OF_ROW) y[e] = value * row_weight;
                else y[e] = fmaf(value, element(weights[k], e) + more, element(biases[k], e));
            }
            emit(begin + k, rounded<T>(y));
        }
    }
}

/// Codes of each item by the scale of its chunk (SIZE elements), or by the one given (SIZE 0).
template <class OUT, class T, int V>
__device__ __forceinline__ Divisor scale_of_item(const Packed<T>& y, const Position<T>& at, int i, const RowForward& a) {
    if constexpr (OUT::CHUNK == 0) {
        return Divisor(*a.given_scale);
    } else {
        using Code = typename OUT::Code;
        const Largest largest = over_lanes<OUT::CHUNK / V>(Largest{largest_of(y, at.place.live(i))});
        const float scale = OUT::Rule::template scale<Code>(largest.v);
        const int column = at.place.column(i);
        if (at.place.live(i) > 0 && column % OUT::CHUNK == 0) {
            const long long chunks = (a.n + OUT::CHUNK - 1) / OUT::CHUNK;
            a.scales[at.row * chunks + (at.begin + column) / OUT::CHUNK] = scale;
        }
        return Divisor(scale);
    }
}

/// Every step but the first of rows in slices needs the statistics; ENLARGE ends with an amax a slice.
template <class T, class W, class NORM, class OUT, int LANES, int ITEMS, int WIDTH, Stage STAGE>
__device__ __forceinline__ void write_row(typename Holding<T, ITEMS>::type& held, Position<T> at, const Standard& standard, const RowForward& a) {
    constexpr int V = LANES_OF<T>;
    at.place = again<WIDTH>(at.place);
    constexpr bool CLUSTER = ITEMS == 0 && STAGE == WHOLE;
    const long long begin = at.row * a.n + at.begin;
    if constexpr (!OUT::QUANTIZED) {
        T* y = static_cast<T*>(a.y) + begin;
        each_normalized<NORM, W, WIDTH>(held, at, standard, a, [&](int i, const Packed<T>& value) {
            store_row<WIDTH, LANES>(at.place.item(y, i), value, at.place.live(i));
        });
    } else {
        using Code = typename OUT::Code;
        unsigned char* codes = static_cast<unsigned char*>(a.y) + begin;
        auto store_codes = [&](int i, const Packed<T>& value, const Divisor& by) {
            store_row<WIDTH, LANES>(at.place.item(codes, i), codes_of<Code>(value, by), at.place.live(i));
        };
        if constexpr (!OUT::WHOLE_ROW) {
            each_normalized<NORM, W, WIDTH>(held, at, standard, a, [&](int i, const Packed<T>& value) {
                store_codes(i, value, scale_of_item<OUT, T, V>(value, at, i, a));
            });
        } else {
            QB_SHARED(Largest, scratch, MOST_WARPS + MOST_BLOCKS_OF_CLUSTER);
            float largest = 0.0f;
            each_normalized<NORM, W, WIDTH>(held, at, standard, a, [&](int i, const Packed<T>& value) {
                largest = fmaxf(largest, largest_of(value, at.place.live(i)));
                held[i] = value;
            });
            if constexpr (STAGE == ENLARGE) {
                largest = over_block(Largest{largest}, scratch).v;
                if (threadIdx.x == 0) a.largest[at.row * at.parts + at.part] = largest;
                return;
            }
            if constexpr (STAGE == WRITE)
                largest = over_parts(reinterpret_cast<const Largest*>(a.largest) + at.row * at.parts, at.parts, scratch).v;
            else
                largest = over_row<LANES, CLUSTER>(Largest{largest}, scratch).v;
            const Divisor by(AbsMaxRule::scale<Code>(largest));
            if (at.leads) a.scales[at.row] = by.scale;
            each_item(held, [&](int i) { store_codes(i, held[i], by); });
        }
    }
}

__host__ __device__ constexpr int block_of(int lanes) { return lanes <= WARP ? SEVERAL : lanes; }

/// Threads of a multiprocessor that there are registers for: 64 a thread; 80 where more is done (rows in
/// slices, codes, shifting) or held; 128 where both.
__host__ __device__ constexpr int resident(int items, bool sliced, bool more) {
    if (items <= 4) return sliced || more ? 768 : 1024;
    return more ? 512 : 768;
}

/// One norm of each row. LANES: threads of a row (8, 16, 32), or the most of a block that has one row.
/// ITEMS: vectors of a thread, in registers; 0 for shared memory, a.items of them. WIDTH: elements that
/// every operand is aligned to.
template <class T, class W, class NORM, class OUT, int LANES, int ITEMS, int WIDTH, Stage STAGE>
__global__ void __launch_bounds__(block_of(LANES), resident(ITEMS, STAGE != WHOLE, OUT::QUANTIZED || WIDTH < LANES_OF<T>) / block_of(LANES))
    row_forward(const __grid_constant__ RowForward a) {
    using S = typename NORM::Statistic;
    constexpr bool CLUSTER = ITEMS == 0 && STAGE == WHOLE;
    QB_SHARED(S, scratch, MOST_WARPS + MOST_BLOCKS_OF_CLUSTER);
    wait_for_previous_grid();
    if constexpr (CLUSTER) cluster_arrive();
    const Position<T> at = position_of<T, LANES, ITEMS, STAGE>(a);
    // Of a row that does not exist as well: lanes of one warp stay together, and nothing of it is read.
    RowInput<T, WIDTH> in{static_cast<const T*>(a.x) + at.row * a.x_stride, nullptr, nullptr};
    T* total = nullptr;
    if (a.residual != nullptr) {
        in.residual = static_cast<const T*>(a.residual) + at.row * a.residual_stride;
        in.gate = a.gate.template of<T>(at.row, a.tokens);
        if (STAGE <= DESCRIBE && a.total != nullptr) total = static_cast<T*>(a.total) + at.row * a.n + at.begin;
    }
    const Packed<T> first = in.first(at.exists ? static_cast<int>(min(a.n, static_cast<long long>(LANES_OF<T>))) : 0);
    in.x += at.begin;
    if (in.residual != nullptr) in.residual += at.begin;
    if (in.gate != nullptr) in.gate += at.begin;
    typename Holding<T, ITEMS>::type held;
    place_storage<LANES>(held, a);
    read_row<WIDTH, LANES>(held, at.place, in, total);
    release_next_grid();
    const float pivot = NORM::CENTRED ? pivot_of<T>(first, a.n) : 0.0f;
    if constexpr (CLUSTER) cluster_wait();
    if constexpr (STAGE == DESCRIBE) {
        S* parts = static_cast<S*>(a.partials) + at.row * at.parts * ATTEMPTS + at.part;
        for (int attempt = 0; attempt < ATTEMPTS; ++attempt) {
            __syncthreads();
            const S s = over_block(described<WIDTH>(held, at.place, pivot, factor_of(attempt), S{}), scratch);
            if (threadIdx.x == 0) parts[attempt * at.parts] = s;
        }
    } else {
        auto whole = [&](int attempt) -> S {
            if constexpr (STAGE == WHOLE)
                return over_row<LANES, CLUSTER>(described<WIDTH>(held, at.place, pivot, factor_of(attempt), S{}), scratch);
            const S* parts = static_cast<const S*>(a.partials) + at.row * at.parts * ATTEMPTS;
            return over_parts(parts + attempt * at.parts, at.parts, scratch);
        };
        const Standard standard = standard_of<NORM, LANES, CLUSTER>(a, pivot, element(first, 0), at.leads && STAGE != ENLARGE, at.row, whole);
        write_row<T, W, NORM, OUT, LANES, ITEMS, WIDTH, STAGE>(held, at, standard, a);
    }
}

}  // namespace qb
