// Norms of images (images, channels, positions): what both memory orders share.
//
// A set is what is normalized together: a channel of all images (BatchNorm), or a group of channels of
// one image (GroupNorm). Every block sums its part of some channels, and writes a pair of sums for each;
// the block that arrives last at a unit of channels adds them up, in an order that depends on the shape
// alone, and leaves for every channel the numbers that a second kernel applies to it.
#pragma once
#include "words.cuh"

constexpr int IMAGE_THREADS = 256;
constexpr float LARGEST = 3.402823466e38f;  // of float32; NaN and infinity are not below it
constexpr float FAR_FROM_UNDERFLOW = 7.9e-31f;  // 2^-100: what underflows in a few additions does not show

/// Two sums. Forward: of x − pivot and of its square, about a pivot that the whole set shares, so that
/// sums of parts merge by addition (Chan's formula for a common centre). Backward: of dy and dy·(x − mean).
struct Pair {
    double first, second;
};

__device__ __forceinline__ Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }

/// What is applied to a channel: (x − mean) · slope + shift, and backward
/// gradient · dy + (x − mean) · scale · slope + shift.
struct alignas(16) Coefficients {
    float mean, slope, shift, gradient, scale;
};

/// Of a set: its mean and 1 / sqrt(variance + eps), and what rounding each to float32 left out.
struct alignas(16) Statistics {
    float mean, mean_rest, rstd, rstd_rest;

    /// The power of two next below rstd: (x − mean) · scale is near 1, and scaled without being rounded.
    /// Products with it stay in the range of float32 where those with rstd² or of x − mean itself do not.
    __device__ __forceinline__ float scale() const {
        const float power = __uint_as_float(__float_as_uint(rstd) & 0x7f800000u);
        return fminf(fmaxf(power, 1.1754943508e-38f), 8.5070591730e37f);  // 2^-126, 2^126: both have inverses
    }
};

/// Weights or biases, one a channel; float32, float16 or bfloat16 as `type` is 0, 1 or 2.
struct Parameters {
    void* values;
    long long type;

    __device__ __forceinline__ float at(long long i, float otherwise) const {
        if (values == nullptr) return otherwise;
        if (type == 0) return static_cast<const float*>(values)[i];
        if (type == 1) return qb::to_float(static_cast<const __half*>(values)[i]);
        return qb::to_float(static_cast<const __nv_bfloat16*>(values)[i]);
    }
    __device__ __forceinline__ void put(long long i, float value) const {
        if (values == nullptr) return;
        if (type == 0) static_cast<float*>(values)[i] = value;
        else if (type == 1) static_cast<__half*>(values)[i] = qb::from_float<__half>(value);
        else static_cast<__nv_bfloat16*>(values)[i] = qb::from_float<__nv_bfloat16>(value);
    }
};

struct ImageArgs {
    const void* x;
    const void* dy;
    void* out;  // y, or dx
    Parameters weight, bias;
    Parameters dweight, dbias;
    // Running statistics before and after (they may be the same); none where null.
    const float* running_mean;
    const float* running_var;
    float* new_running_mean;
    float* new_running_var;
    Statistics* statistics;      // (sets)
    Coefficients* coefficients;  // (images, channels); of BatchNorm (channels)
    Pair* partials;              // (images, parts, channels)
    Pair* totals;                // (images, fans, channels): partials that were added up once
    Pair* gradients;             // as coefficients: sums of dy and of dy · normalized x
    Pair* group_gradients;       // (sets of GroupNorm): the same, times the weights
    unsigned* arrivals;          // counters, 0 before and after every launch
    double eps, momentum;
    long long images, channels, positions;
    long long group;           // channels of a set
    long long gradient_images; // rows of `gradients`
    long long unit;            // channels that are finished together
    long long units;           // of an image
    long long unit_tiles;      // blocks side by side that make a unit
    long long parts;           // blocks that share the positions of an image
    long long rounds;          // of a block, one after the other
    long long width;           // vectors of a plane, or positions, that a block has in one round
    long long lanes;           // threads side by side: along a plane, or along channels
    long long fan, fans;       // parts that are added up first, and how many such sums there are
    long long lag;             // units that are summed before the first one is applied
    long long frozen;          // backward through statistics that do not depend on x
};

struct BatchNorm {
    static constexpr bool OVER_IMAGES = true;
};
struct GroupNorm {
    static constexpr bool OVER_IMAGES = false;
};

__device__ __forceinline__ long long smaller(long long a, long long b) { return a < b ? a : b; }

template <class Norm>
__device__ __forceinline__ long long set_of(const ImageArgs& a, long long image, long long channel) {
    return Norm::OVER_IMAGES ? channel : image * (a.channels / a.group) + channel / a.group;
}

/// The first element of a set; 0 where that is NaN or ±Inf, which then spoils its set by itself.
/// Order::offset(a, image, channel): where the first position of a channel is.
template <class Norm, class Order, class T>
__device__ __forceinline__ float pivot_of(const ImageArgs& a, long long image, long long channel) {
    const long long at = Norm::OVER_IMAGES ? Order::offset(a, 0, channel)
                                           : Order::offset(a, image, channel - channel % a.group);
    const float value = qb::to_float(static_cast<const T*>(a.x)[at]);
    return fabsf(value) <= LARGEST ? value : 0.0f;
}

/// Whether a float32 sum of squares is as good as any: none overflowed, and none that matters underflowed.
__device__ __forceinline__ bool in_range(const ImageArgs& a, float squares) {
    return squares <= LARGEST && (squares >= FAR_FROM_UNDERFLOW || a.eps >= FAR_FROM_UNDERFLOW);
}

/// Sums about `pivot` from those about `centre`, a number close to the values: no cancellation.
__device__ __forceinline__ Pair about_pivot(float count, float centre, float residues, float squares, float pivot) {
    const double shift = static_cast<double>(centre) - pivot;
    const double first = count * shift;
    return {first + residues, squares + shift * (2.0 * residues + first)};
}

/// Whether this block is the last of `expected` to get here. What each wrote before, the last one sees.
/// The counter is 0 again afterwards, so that a captured graph may be replayed.
__device__ __forceinline__ bool last_to_arrive(unsigned* counter, long long expected) {
    QB_SHARED(int, last, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        *last = atomicAdd(counter, 1u) == static_cast<unsigned>(expected - 1);
        if (*last) *counter = 0;
        __threadfence();
    }
    __syncthreads();
    return *last;
}

/// For each set below `sets`, done(set, sum of entry(set, e) for e below `entries`), in one thread.
/// The order of the sum depends on `sets` and `entries` alone. `scratch`: IMAGE_THREADS pairs.
template <class Entry, class Done>
__device__ __forceinline__ void sum_sets(int sets, int entries, Pair* scratch, Entry entry, Done done) {
    const int side = min(sets, IMAGE_THREADS), walkers = IMAGE_THREADS / side;
    const int walker = threadIdx.x / side;
    for (int base = 0; base < sets; base += side) {
        const int set = base + threadIdx.x % side;
        const bool live = walker < walkers && set < sets;
        Pair sum = {0.0, 0.0};
        if (live) {
#pragma unroll 4
            for (int e = walker; e < entries; e += walkers) sum = sum + entry(set, e);
        }
        scratch[threadIdx.x] = sum;
        __syncthreads();
        for (int left = walkers; left > 1;) {
            const int half = (left + 1) / 2;
            if (walker < left - half) scratch[threadIdx.x] = scratch[threadIdx.x] + scratch[threadIdx.x + half * side];
            __syncthreads();
            left = half;
        }
        if (live && walker == 0) done(set, scratch[threadIdx.x]);
        __syncthreads();
    }
}

__device__ __forceinline__ Coefficients forward_coefficients(const ImageArgs& a, Statistics s, long long channel) {
    const float weight = a.weight.at(channel, 1.0f);
    const float slope = fmaf(s.rstd, weight, s.rstd_rest * weight);
    return {s.mean, slope, fmaf(-s.mean_rest, slope, a.bias.at(channel, 0.0f)), 0.0f, 1.0f};
}

/// What the running statistics give a channel.
__device__ __forceinline__ Coefficients running_coefficients(const ImageArgs& a, long long channel) {
    const float variance = a.running_var[channel], eps = static_cast<float>(a.eps);
    const float sum = __fadd_rn(variance, eps), larger = fmaxf(variance, eps);
    const float left = __fadd_rn(fminf(variance, eps), -__fadd_rn(sum, -larger));
    const float rstd = qb::inv_sqrt(sum);
    // One step of Newton's from the rounded root: what is missing of (sum + left) · rstd² = 1.
    const float product = __fmul_rn(sum, rstd), below = fmaf(sum, rstd, -product);
    const float missing = fmaf(-product, rstd, 1.0f) - (below + left * rstd) * rstd;
    const float rest = 0.5f * rstd * missing;
    return forward_coefficients(a, {a.running_mean[channel], 0.0f, rstd, fabsf(rest) <= LARGEST ? rest : 0.0f}, channel);
}

__device__ __forceinline__ float moved(float from, double to, double momentum) {
    return static_cast<float>(from + momentum * (to - from));
}

/// Mean and variance of `count` values from their sums about the pivot.
struct Measured {
    double mean, variance;

    __device__ __forceinline__ Statistics statistics(double eps) const {
        const double inverse = 1.0 / sqrt(variance + eps);
        const float rounded = static_cast<float>(mean), rstd = static_cast<float>(inverse);
        return {rounded, static_cast<float>(mean - rounded), rstd, static_cast<float>(inverse - rstd)};
    }
};

__device__ __forceinline__ Measured measured(double count, float pivot, Pair sums) {
    const double offset = sums.first / count, spread = sums.second / count - offset * offset;
    return {pivot + offset, spread < 0.0 ? 0.0 : spread};  // NaN stays
}

/// Statistics of one set from its sums about the pivot.
template <class Norm>
__device__ __forceinline__ void settle(const ImageArgs& a, long long set, float pivot, Pair sums) {
    const double count = static_cast<double>(a.group) * a.positions * (Norm::OVER_IMAGES ? a.images : 1);
    const Measured found = measured(count, pivot, sums);
    a.statistics[set] = found.statistics(a.eps);
    if (Norm::OVER_IMAGES && a.new_running_mean != nullptr) {
        const double unbiased = found.variance * (count / (count > 1.0 ? count - 1.0 : 1.0));
        a.new_running_mean[set] = moved(a.running_mean[set], found.mean, a.momentum);
        a.new_running_var[set] = moved(a.running_var[set], unbiased, a.momentum);
    }
}

/// The channels from `first` to `end` of an image (BatchNorm: of all), whose totals are all there.
template <class Norm, class Order, class T>
__device__ void finish_forward(const ImageArgs& a, long long image, long long first, long long end, Pair* scratch) {
    const long long row = Norm::OVER_IMAGES ? 0 : image * a.fans;
    const int rows = static_cast<int>(Norm::OVER_IMAGES ? a.images * a.fans : a.fans);
    const int channels = static_cast<int>(end - first), group = static_cast<int>(a.group);
    sum_sets(
        channels / group, rows * group, scratch,
        [&](int set, int e) {
            const int down = Norm::OVER_IMAGES ? e : e / group, across = Norm::OVER_IMAGES ? 0 : e % group;
            return a.totals[(row + down) * a.channels + first + set * a.group + across];
        },
        [&](int set, Pair sums) {
            const long long channel = first + set * a.group;
            settle<Norm>(a, set_of<Norm>(a, image, channel), pivot_of<Norm, Order, T>(a, image, channel), sums);
        });
    for (long long channel = first + threadIdx.x; channel < end; channel += IMAGE_THREADS)
        a.coefficients[(Norm::OVER_IMAGES ? 0 : image * a.channels) + channel] =
            forward_coefficients(a, a.statistics[set_of<Norm>(a, image, channel)], channel);
}

/// dx = rstd · (w · dy − mean(w · dy) − x̂ · mean(w · dy · x̂)) as coefficients of a channel.
/// `sums`: of w · dy and w · dy · x̂ over the set.
template <class Norm>
__device__ __forceinline__ Coefficients backward_coefficients(const ImageArgs& a, Statistics s, float weight, Pair sums) {
    const double count = static_cast<double>(a.group) * a.positions * (Norm::OVER_IMAGES ? a.images : 1);
    const double level = a.frozen ? 0.0 : sums.first / count, tilt = a.frozen ? 0.0 : sums.second / count;
    const double rstd = static_cast<double>(s.rstd) + s.rstd_rest;
    const float scale = s.scale();
    return {s.mean, static_cast<float>(-rstd * (rstd / scale) * tilt),
            static_cast<float>(rstd * (s.mean_rest * rstd * tilt - level)), static_cast<float>(rstd * weight), scale};
}

template <class Norm>
__device__ void finish_backward(const ImageArgs& a, long long image, long long first, long long end, Pair* scratch) {
    const long long row = Norm::OVER_IMAGES ? 0 : image * a.fans;
    const int rows = static_cast<int>(Norm::OVER_IMAGES ? a.images * a.fans : a.fans);
    const int channels = static_cast<int>(end - first), group = static_cast<int>(a.group);
    const long long table = Norm::OVER_IMAGES ? 0 : image * a.channels;
    sum_sets(
        channels, rows, scratch,
        [&](int c, int e) { return a.totals[(row + e) * a.channels + first + c]; },
        [&](int c, Pair sums) {
            const Statistics s = a.statistics[set_of<Norm>(a, image, first + c)];
            const double tilt = (static_cast<double>(s.rstd) + s.rstd_rest) * (sums.second - s.mean_rest * sums.first);
            a.gradients[table + first + c] = {sums.first, tilt};
        });
    if (!Norm::OVER_IMAGES)
        sum_sets(
            channels / group, group, scratch,
            [&](int set, int e) {
                const long long channel = first + set * a.group + e;
                const double weight = a.weight.at(channel, 1.0f);
                const Pair sums = a.gradients[table + channel];
                return Pair{weight * sums.first, weight * sums.second};
            },
            [&](int set, Pair sums) {
                a.group_gradients[set_of<Norm>(a, image, first + set * a.group)] = sums;
            });
    for (long long channel = first + threadIdx.x; channel < end; channel += IMAGE_THREADS) {
        const long long set = set_of<Norm>(a, image, channel);
        const float weight = a.weight.at(channel, 1.0f);
        Pair sums;
        if (Norm::OVER_IMAGES) {
            sums = a.gradients[channel];
            sums = {weight * sums.first, weight * sums.second};
        } else {
            sums = a.group_gradients[set];
        }
        a.coefficients[table + channel] = backward_coefficients<Norm>(a, a.statistics[set], weight, sums);
    }
}

/// All that is to be done for a unit once its totals are there.
template <class Norm, class Order, class T, bool BACKWARD>
__device__ __forceinline__ void finish(const ImageArgs& a, long long image, long long unit, Pair* scratch) {
    const long long first = unit * a.unit, end = smaller(first + a.unit, a.channels);
    if (BACKWARD) finish_backward<Norm>(a, image, first, end, scratch);
    else finish_forward<Norm, Order, T>(a, image, first, end, scratch);
}

/// Once all blocks of a unit have written their totals, the last one finishes it.
template <class Norm, class Order, class T, bool BACKWARD>
__device__ __forceinline__ void finish_unit(const ImageArgs& a, long long image, long long unit, unsigned* arrivals,
                                            long long blocks, Pair* scratch) {
    unsigned* const counter = arrivals + (Norm::OVER_IMAGES ? unit : image * a.units + unit);
    if (last_to_arrive(counter, (Norm::OVER_IMAGES ? a.images : 1) * blocks))
        finish<Norm, Order, T, BACKWARD>(a, image, unit, scratch);
}

constexpr int GRADIENT_CHANNELS = 32;

/// dweight and dbias: `gradients` added up over its rows; `blocks` of them take 32 channels in turn.
__device__ __forceinline__ void put_parameter_gradients(const ImageArgs& a, Pair* scratch, long long block, long long blocks) {
    if (a.dweight.values == nullptr && a.dbias.values == nullptr) return;
    for (long long first = block * GRADIENT_CHANNELS; first < a.channels; first += blocks * GRADIENT_CHANNELS)
        sum_sets(
            static_cast<int>(smaller(GRADIENT_CHANNELS, a.channels - first)), static_cast<int>(a.gradient_images), scratch,
            [&](int c, int e) { return a.gradients[e * a.channels + first + c]; },
            [&](int c, Pair sums) {
                a.dbias.put(first + c, static_cast<float>(sums.first));
                a.dweight.put(first + c, static_cast<float>(sums.second));
            });
}

/// How an element is made of what was read and of the coefficients of its channel.
template <bool BACKWARD>
__device__ __forceinline__ float applied(const Coefficients& k, float x, float dy) {
    const float affine = fmaf(BACKWARD ? (x - k.mean) * k.scale : x - k.mean, k.slope, k.shift);
    if (!BACKWARD) return affine;
    // Where nothing flows through the statistics, x need not be finite.
    return fmaf(k.gradient, dy, k.slope == 0.0f ? k.shift : affine);
}

/// What the second kernel does, and where the numbers of a channel come from.
struct Normalize {
    static constexpr bool BACKWARD = false;
    static __device__ __forceinline__ Coefficients at(const ImageArgs& a, long long i) { return a.coefficients[i]; }
};
struct Backpropagate {
    static constexpr bool BACKWARD = true;
    static __device__ __forceinline__ Coefficients at(const ImageArgs& a, long long i) { return a.coefficients[i]; }
};
struct UseRunning {
    static constexpr bool BACKWARD = false;
    static __device__ __forceinline__ Coefficients at(const ImageArgs& a, long long i) { return running_coefficients(a, i); }
};
