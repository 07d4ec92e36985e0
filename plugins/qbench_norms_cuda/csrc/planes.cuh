// Images whose planes are contiguous (NCHW, and rows: planes of one position axis).
//
// `lanes` threads sum a plane, or a part of it: four vectors of 16 bytes each, all of them loaded before
// the first is used. Small planes share a block.
#pragma once
#include "image_norm.cuh"

constexpr int PLANE_ITEMS = 4;
constexpr int WARP_LANES = 32;

struct PlaneOrder {
    static __device__ __forceinline__ long long offset(const ImageArgs& a, long long image, long long channel) {
        return (image * a.channels + channel) * a.positions;
    }
};

/// What a thread has of a plane in one round: vectors of 16 bytes, `step` elements apart.
template <class T>
struct PlaneTile {
    long long start;  // its first element
    int step;
    int left;  // elements from `start` on that are the block's

    /// Elements of item i that exist, and those after them: below 1 for none.
    __device__ __forceinline__ int live(int i) const { return left - i * step; }
    /// Whether element e of item i exists, WIDTH dividing the length of a plane.
    template <int WIDTH>
    __device__ __forceinline__ bool has(int i, int e) const {
        return e / WIDTH * WIDTH < live(i);
    }
};

template <int WIDTH, bool STREAM = false, class T>
__device__ __forceinline__ void load_tile(const PlaneTile<T>& tile, const void* from, Words<T> (&held)[PLANE_ITEMS]) {
    const T* const start = static_cast<const T*>(from) + tile.start;
#pragma unroll
    for (int i = 0; i < PLANE_ITEMS; ++i)
        held[i] = load_words<WIDTH, STREAM>(start + i * tile.step, tile.live(i));
}

/// In double, element by element: for squares that float32 does not hold.
template <class T>
__device__ __forceinline__ Pair exact_tile(const ImageArgs& a, const PlaneTile<T>& tile, float pivot) {
    Pair sums = {0.0, 0.0};
#pragma unroll 1
    for (int i = 0; i < PLANE_ITEMS; ++i) {
#pragma unroll 1
        for (int e = 0; e < ELEMENTS<T> && e < tile.live(i); ++e) {
            const double d = static_cast<double>(qb::to_float(static_cast<const T*>(a.x)[tile.start + i * tile.step + e])) - pivot;
            sums = sums + Pair{d, d * d};
        }
    }
    return sums;
}

/// Two passes over the tile in registers: its mean, then the distances to that. keep(i, words) is told
/// of every item.
template <int WIDTH, class T, class Keep>
__device__ __forceinline__ Pair forward_tile(const ImageArgs& a, const PlaneTile<T>& tile, float pivot, Keep keep) {
    constexpr int LANES = ELEMENTS<T>;
    Words<T> held[PLANE_ITEMS];
    load_tile<WIDTH>(tile, a.x, held);
    float total = 0.0f, residues = 0.0f, squares = 0.0f;
    int count = 0;
#pragma unroll
    for (int i = 0; i < PLANE_ITEMS; ++i) {
        count += max(0, min(LANES, tile.live(i)));
        keep(i, held[i]);
#pragma unroll
        for (int e = 0; e < LANES; ++e) total += held[i].at(e);  // 0 where there is none
    }
    if (count == 0) return {0.0, 0.0};
    const float centre = total / static_cast<float>(count);
#pragma unroll
    for (int i = 0; i < PLANE_ITEMS; ++i)
#pragma unroll
        for (int e = 0; e < LANES; ++e)
            if (tile.template has<WIDTH>(i, e)) {
                const float d = held[i].at(e) - centre;
                residues += d;
                squares = fmaf(d, d, squares);
            }
    if (!in_range(a, squares)) return exact_tile(a, tile, pivot);
    return about_pivot(static_cast<float>(count), centre, residues, squares, pivot);
}

template <int WIDTH, class T>
__device__ __forceinline__ Pair backward_tile(const ImageArgs& a, const PlaneTile<T>& tile, float mean, float scale) {
    constexpr int LANES = ELEMENTS<T>;
    Words<T> held[PLANE_ITEMS], incoming[PLANE_ITEMS];
    load_tile<WIDTH>(tile, a.x, held);
    load_tile<WIDTH>(tile, a.dy, incoming);
    float level = 0.0f, tilt = 0.0f;
#pragma unroll
    for (int i = 0; i < PLANE_ITEMS; ++i) {
        float its_level = 0.0f, its_tilt = 0.0f;  // short sums round less
#pragma unroll
        for (int e = 0; e < LANES; ++e) {
            const float dy = incoming[i].at(e);  // 0 where there is none
            its_level += dy;
            its_tilt = fmaf(dy, (held[i].at(e) - mean) * scale, its_tilt);
        }
        level += its_level;
        tilt += its_tilt;
    }
    return {level, static_cast<double>(tilt) * (1.0f / scale)};
}

/// Sum over `lanes` threads side by side (a power of two), in the first of them.
__device__ __forceinline__ Pair over_plane(Pair sum, int lanes, Pair* scratch) {
    for (int step = 1; step < lanes && step < WARP_LANES; step *= 2) {
        const Pair other = {__shfl_xor_sync(0xffffffffu, sum.first, step), __shfl_xor_sync(0xffffffffu, sum.second, step)};
        sum = sum + other;
    }
    if (lanes <= WARP_LANES) return sum;
    if (threadIdx.x % WARP_LANES == 0) scratch[threadIdx.x / WARP_LANES] = sum;
    __syncthreads();
    const int warps = lanes / WARP_LANES;
    if (threadIdx.x % lanes == 0) {
        sum = scratch[threadIdx.x / WARP_LANES];
        for (int w = 1; w < warps; ++w) sum = sum + scratch[threadIdx.x / WARP_LANES + w];
    }
    return sum;
}

/// Which part of which planes a thread of a block has.
template <class T>
struct PlaneShare {
    long long image, unit, part, channel;
    int lane;
    bool live;

    __device__ __forceinline__ PlaneShare(const ImageArgs& a, long long image, long long unit, long long tile, long long part)
        : image(image), unit(unit), part(part), lane(threadIdx.x % static_cast<int>(a.lanes)) {
        const int lanes = static_cast<int>(a.lanes);
        channel = unit * a.unit + tile * (IMAGE_THREADS / lanes) + threadIdx.x / lanes;
        live = channel < smaller((unit + 1) * a.unit, a.channels);
    }

    /// visit(tile) for each round.
    template <class Visit>
    __device__ __forceinline__ void each_round(const ImageArgs& a, Visit visit) const {
        constexpr int LANES = ELEMENTS<T>;
        for (long long round = part * a.rounds; live && round < (part + 1) * a.rounds; ++round) {
            const long long first = (round * a.width + lane) * LANES;
            visit(PlaneTile<T>{PlaneOrder::offset(a, image, channel) + first, static_cast<int>(a.lanes) * LANES,
                               static_cast<int>(smaller((a.width - lane) * LANES, a.positions - first))});
        }
    }
};

/// Sums of a block's share, into the partials.
template <class Norm, int WIDTH, bool BACKWARD, class T>
__device__ __forceinline__ void sum_share(const ImageArgs& a, const PlaneShare<T>& mine, Pair* scratch) {
    Pair sum = {0.0, 0.0};
    if (mine.live) {
        const long long set = set_of<Norm>(a, mine.image, mine.channel);
        const float centre = BACKWARD ? a.statistics[set].mean : pivot_of<Norm, PlaneOrder, T>(a, mine.image, mine.channel);
        const float scale = BACKWARD ? a.statistics[set].scale() : 1.0f;
        mine.each_round(a, [&](const PlaneTile<T>& tile) {
            if (BACKWARD) sum = sum + backward_tile<WIDTH>(a, tile, centre, scale);
            else sum = sum + forward_tile<WIDTH>(a, tile, centre, [](int, const Words<T>&) {});
        });
    }
    sum = over_plane(sum, static_cast<int>(a.lanes), scratch);
    if (mine.live && mine.lane == 0) a.partials[(mine.image * a.parts + mine.part) * a.channels + mine.channel] = sum;
}

/// First of two kernels. Blocks: parts · unit_tiles · units · images, parts first. Shared: IMAGE_THREADS pairs.
template <class Norm, class T, int WIDTH, bool BACKWARD>
__global__ void __launch_bounds__(IMAGE_THREADS, 3) plane_sums(const __grid_constant__ ImageArgs a) {
    Pair* const scratch = reinterpret_cast<Pair*>(qb::extern_shared());
    qb::wait_for_previous_grid();
    qb::release_next_grid();
    const long long tiles = blockIdx.x / a.parts, units = tiles / a.unit_tiles;
    const PlaneShare<T> mine(a, units / a.units, units % a.units, tiles % a.unit_tiles, blockIdx.x % a.parts);
    sum_share<Norm, WIDTH, BACKWARD>(a, mine, scratch);
    finish_unit<Norm, PlaneOrder, T, BACKWARD>(a, mine.image, mine.unit, a.arrivals, a.unit_tiles * a.parts, scratch);
}

/// Both kernels in one, for planes of whole vectors of 16 bytes: a unit is applied as soon as it is finished,
/// while what was read of it is in the second-level cache. Blocks: twice those of plane_sums.
///
/// Blocks take their work in the order in which they start, and all that a block waits for was taken
/// before: it runs already, and waits for nothing itself if it sums. Counters: one a unit, then the next
/// work, then the units finished; each ends as 0. That of a unit counts the blocks that have summed it,
/// then the end of finishing, then the blocks that have seen it.
template <class Norm, class T, int WIDTH, bool BACKWARD>
__global__ void __launch_bounds__(IMAGE_THREADS, 3) plane_norm(const __grid_constant__ ImageArgs a) {
    constexpr int LANES = ELEMENTS<T>;
    QB_SHARED(unsigned, seen, 1);
    Pair* const scratch = reinterpret_cast<Pair*>(qb::extern_shared());
    qb::wait_for_previous_grid();
    const long long units = a.units * (Norm::OVER_IMAGES ? 1 : a.images);
    const long long blocks = a.unit_tiles * a.parts * (Norm::OVER_IMAGES ? a.images : 1);
    unsigned* const next = a.arrivals + units;
    if (threadIdx.x == 0) {
        *seen = atomicAdd(next, 1u);
        if (*seen == gridDim.x - 1) *next = 0;
    }
    __syncthreads();
    const unsigned ticket = *seen;
    // lag units are summed; then one is applied, one summed, in turn; then the rest are applied.
    const long long turn = ticket / blocks - a.lag, within = ticket % blocks, both = 2 * (units - a.lag);
    const bool sums = turn < 0 || (turn < both && turn % 2);
    const long long which = turn < 0 ? turn + a.lag : turn < both ? turn / 2 + (sums ? a.lag : 0) : turn - both / 2;
    const long long tile = within / a.parts % a.unit_tiles;
    const PlaneShare<T> mine(a, Norm::OVER_IMAGES ? within / (a.parts * a.unit_tiles) : which / a.units,
                             Norm::OVER_IMAGES ? which : which % a.units, tile, within % a.parts);
    unsigned* const counter = a.arrivals + which;
    const unsigned expected = static_cast<unsigned>(blocks);

    if (sums) {
        sum_share<Norm, WIDTH, BACKWARD>(a, mine, scratch);
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            *seen = atomicAdd(counter, 1u);
            __threadfence();
        }
        __syncthreads();
        if (*seen != expected - 1) return;
        finish<Norm, PlaneOrder, T, BACKWARD>(a, mine.image, mine.unit, scratch);
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(counter, 1u);
            if (BACKWARD) {
                *seen = atomicAdd(next + 1, 1u);
                if (*seen == static_cast<unsigned>(units - 1)) next[1] = 0;
                __threadfence();
            }
        }
        if (!BACKWARD) return;
        __syncthreads();
        if (*seen == static_cast<unsigned>(units - 1)) put_parameter_gradients(a, scratch, 0, 1);
        return;
    }
    if (threadIdx.x == 0) {
        while (*static_cast<volatile unsigned*>(counter) <= expected) __nanosleep(64);
        __threadfence();
        if (atomicAdd(counter, 1u) == 2 * expected) *counter = 0;
    }
    __syncthreads();
    if (!mine.live) return;
    const Coefficients k = a.coefficients[Norm::OVER_IMAGES ? mine.channel : mine.image * a.channels + mine.channel];
    mine.each_round(a, [&](const PlaneTile<T>& part) {
        Words<T> held[PLANE_ITEMS], incoming[PLANE_ITEMS];
        load_tile<WIDTH, true>(part, a.x, held);
        if (BACKWARD) load_tile<WIDTH, true>(part, a.dy, incoming);
#pragma unroll
        for (int i = 0; i < PLANE_ITEMS; ++i) {
            Words<T> made;
#pragma unroll
            for (int e = 0; e < LANES; ++e)
                put(made, e, applied<BACKWARD>(k, held[i].at(e), BACKWARD ? incoming[i].at(e) : 0.0f));
            store_words<LANES>(static_cast<T*>(a.out) + part.start + i * part.step, made, part.live(i));
        }
    });
}

/// Second kernel: element by element, wherever planes begin; walks back from what was read last.
/// WIDTH: elements of one access to x and dy; `out` is aligned to 16 bytes.
/// Blocks: one a tile of IMAGE_THREADS · PLANE_ITEMS vectors. Shared: IMAGE_THREADS pairs for a backward.
template <class Norm, class T, int WIDTH, class Step>
__global__ void __launch_bounds__(IMAGE_THREADS, 4) plane_apply(const __grid_constant__ ImageArgs a) {
    constexpr int LANES = ELEMENTS<T>;
    constexpr int TILE = IMAGE_THREADS * PLANE_ITEMS * LANES;
    qb::wait_for_previous_grid();
    if (Step::BACKWARD) put_parameter_gradients(a, reinterpret_cast<Pair*>(qb::extern_shared()), blockIdx.x, gridDim.x);

    const long long start = (gridDim.x - 1ll - blockIdx.x) * TILE;
    const int left = static_cast<int>(smaller(TILE, a.images * a.channels * a.positions - start));
    const long long plane = start / a.positions, before = start - plane * a.positions;
    const long long channel = Norm::OVER_IMAGES ? plane % a.channels : plane;
    const T* const x = static_cast<const T*>(a.x) + start;
    const T* const dy = static_cast<const T*>(a.dy) + (Step::BACKWARD ? start : 0);
    T* const out = static_cast<T*>(a.out) + start;
    // No plane of 2^31 elements ends twice in a tile.
    const auto planes_before = [&](long long position) {
        return a.positions >> 31 ? static_cast<int>(position >= a.positions)
                                 : static_cast<int>(static_cast<unsigned>(position) / static_cast<unsigned>(a.positions));
    };
    const auto at = [&](int planes) {
        const long long i = channel + planes;
        return Step::at(a, Norm::OVER_IMAGES && i >= a.channels ? i % a.channels : i);
    };

    Words<T> held[PLANE_ITEMS], incoming[PLANE_ITEMS];
#pragma unroll
    for (int i = 0; i < PLANE_ITEMS; ++i) {
        const int element = (i * IMAGE_THREADS + threadIdx.x) * LANES;
        const int live = element + LANES <= left ? LANES : 0;
        held[i] = load_words<WIDTH, true>(x + element, live);
        if (Step::BACKWARD) incoming[i] = load_words<WIDTH, true>(dy + element, live);
    }
#pragma unroll
    for (int i = 0; i < PLANE_ITEMS; ++i) {
        const int element = (i * IMAGE_THREADS + threadIdx.x) * LANES;
        if (element >= left) break;
        const int planes = planes_before(before + element);
        if (element + LANES <= left && before + element + LANES <= (planes + 1ll) * a.positions) {
            const Coefficients k = at(planes);
            Words<T> made;
#pragma unroll
            for (int e = 0; e < LANES; ++e)
                put(made, e, applied<Step::BACKWARD>(k, held[i].at(e), Step::BACKWARD ? incoming[i].at(e) : 0.0f));
            store_words<LANES>(out + element, made, LANES);
            continue;
        }
        // A plane begins within the vector, or the tensor ends there.
#pragma unroll 1
        for (int e = element; e < element + LANES && e < left; ++e)
            out[e] = qb::from_float<T>(applied<Step::BACKWARD>(at(planes_before(before + e)), qb::to_float(x[e]),
                                                               Step::BACKWARD ? qb::to_float(dy[e]) : 0.0f));
    }
}
