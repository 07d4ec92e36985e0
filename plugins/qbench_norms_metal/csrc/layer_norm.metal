// LayerNorm of rows, one a threadgroup: y = (x - mean) / sqrt(var + eps) * (weight + offset) + bias.
//
// ELEMENT: float, half or bfloat, the type of all tensors; READS: elements of a row that a thread holds.
// Sums are float32, about the row's first element (the pivot), so that a mean of any size costs no digits of
// the variance; what rounding the mean has cost comes out of the second pass (the slip).
#include <metal_stdlib>
using namespace metal;

constant constexpr uint kSimdgroup = 32;
constant constexpr float kShrink = 8.271806125530277e-25f;  // 2^-80

// Which of weight and bias there are; what is not there is never read.
constant constexpr uint kWeighted = 1;
constant constexpr uint kBiased = 2;

struct Place {
    uint thread_index;
    uint threads;
    uint lane;
    uint simdgroup;
};

// Sums over the threadgroup, given to every thread of it; `partial` is not in use by another sum.
inline float2 group_sum(float2 mine, threadgroup float2* partial, Place place) {
    mine = float2(simd_sum(mine.x), simd_sum(mine.y));
    if (place.lane == 0) partial[place.simdgroup] = mine;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const bool there = place.lane < (place.threads + kSimdgroup - 1) / kSimdgroup;
    const float2 other = there ? partial[place.lane] : float2(0.0f, 0.0f);
    return float2(simd_sum(other.x), simd_sum(other.y));
}

// pivot + offset as the nearest float, and what that lacks (Knuth's sum).
inline float2 exact_mean(float pivot, float offset) {
    const float mean = pivot + offset;
    const float added = mean - pivot;
    return float2(mean, (pivot - (mean - added)) + (offset - added));
}

// 1 / sqrt(var + eps), of a sum of squares of deviations * shrink that are `slip` too large.
inline float root_of(float squares, float slip, float shrink, uint width, float eps) {
    slip *= shrink;
    const float moment = (squares / float(width) - slip * slip) + eps * shrink * shrink;
    return shrink * metal::precise::rsqrt(moment);
}

inline ELEMENT affine(float value, uint i, device const ELEMENT* weight, device const ELEMENT* bias,
                      float weight_offset, uint given) {
    if (given & kWeighted) value *= float(weight[i]) + weight_offset;
    if (given & kBiased) value += float(bias[i]);
    return ELEMENT(value);
}

// Rows of up to READS * threads elements, read once; thread t holds elements t, t + threads, ...
kernel void layer_norm_row(
    device const ELEMENT* x [[buffer(0)]],
    device const ELEMENT* weight [[buffer(1)]],
    device const ELEMENT* bias [[buffer(2)]],
    device ELEMENT* y [[buffer(3)]],
    constant long& x_stride [[buffer(4)]],
    constant uint& width [[buffer(5)]],
    constant float& eps [[buffer(6)]],
    constant float& weight_offset [[buffer(7)]],
    constant uint& given [[buffer(8)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float2 first[kSimdgroup];
    threadgroup float2 second[kSimdgroup];
    threadgroup float2 third[kSimdgroup];
    const Place place = {thread_index, threads, lane, simdgroup};
    x += long(row) * x_stride;
    y += long(row) * long(width);
    float held[READS];
    const float pivot = float(x[0]);
    float2 sums = float2(0.0f, 0.0f);
    for (uint k = 0; k < READS; ++k) {
        const uint i = thread_index + k * threads;
        held[k] = i < width ? float(x[i]) : pivot;
        sums.x += held[k] - pivot;
    }
    const float2 mean = exact_mean(pivot, group_sum(sums, first, place).x / float(width));
    sums = float2(0.0f, 0.0f);
    for (uint k = 0; k < READS; ++k) {
        const bool there = thread_index + k * threads < width;
        held[k] = there ? (held[k] - mean.x) - mean.y : 0.0f;
        sums += float2(held[k], held[k] * held[k]);
    }
    sums = group_sum(sums, second, place);
    const float slip = sums.x / float(width);
    float shrink = 1.0f;
    if (isinf(sums.y)) {
        shrink = kShrink;
        float2 small = float2(0.0f, 0.0f);
        for (uint k = 0; k < READS; ++k) small.y += (held[k] * kShrink) * (held[k] * kShrink);
        sums = group_sum(small, third, place);
    }
    const float root = root_of(sums.y, slip, shrink, width, eps);
    for (uint k = 0; k < READS; ++k) {
        const uint i = thread_index + k * threads;
        if (i < width) y[i] = affine((held[k] - slip) * root, i, weight, bias, weight_offset, given);
    }
}

// Longer rows: read once for each sum, and once for y.
kernel void layer_norm_looped(
    device const ELEMENT* x [[buffer(0)]],
    device const ELEMENT* weight [[buffer(1)]],
    device const ELEMENT* bias [[buffer(2)]],
    device ELEMENT* y [[buffer(3)]],
    constant long& x_stride [[buffer(4)]],
    constant uint& width [[buffer(5)]],
    constant float& eps [[buffer(6)]],
    constant float& weight_offset [[buffer(7)]],
    constant uint& given [[buffer(8)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float2 first[kSimdgroup];
    threadgroup float2 second[kSimdgroup];
    threadgroup float2 third[kSimdgroup];
    const Place place = {thread_index, threads, lane, simdgroup};
    x += long(row) * x_stride;
    y += long(row) * long(width);
    const float pivot = float(x[0]);
    float2 sums = float2(0.0f, 0.0f);
    for (uint i = thread_index; i < width; i += threads) sums.x += float(x[i]) - pivot;
    const float2 mean = exact_mean(pivot, group_sum(sums, first, place).x / float(width));
    sums = float2(0.0f, 0.0f);
    for (uint i = thread_index; i < width; i += threads) {
        const float deviation = (float(x[i]) - mean.x) - mean.y;
        sums += float2(deviation, deviation * deviation);
    }
    sums = group_sum(sums, second, place);
    const float slip = sums.x / float(width);
    float shrink = 1.0f;
    if (isinf(sums.y)) {
        shrink = kShrink;
        float2 small = float2(0.0f, 0.0f);
        for (uint i = thread_index; i < width; i += threads) {
            const float deviation = ((float(x[i]) - mean.x) - mean.y) * kShrink;
            small.y += deviation * deviation;
        }
        sums = group_sum(small, third, place);
    }
    const float root = root_of(sums.y, slip, shrink, width, eps);
    for (uint i = thread_index; i < width; i += threads) {
        const float deviation = ((float(x[i]) - mean.x) - mean.y) - slip;
        y[i] = affine(deviation * root, i, weight, bias, weight_offset, given);
    }
}
