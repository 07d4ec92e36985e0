// RMSNorm of rows, one a threadgroup: y = x / sqrt(mean(x * x) + eps) * (weight + offset).
//
// ELEMENT: float, half or bfloat, the type of all tensors; READS: elements of a row that a thread holds.
// Sums are float32; where the squares are beyond it, those of x * 2^-80 are summed instead.
#include <metal_stdlib>
using namespace metal;

constant constexpr uint kSimdgroup = 32;
constant constexpr float kShrink = 8.271806125530277e-25f;  // 2^-80

struct Place {
    uint thread_index;
    uint threads;
    uint lane;
    uint simdgroup;
};

// The sum over the threadgroup, given to every thread of it; `partial` is not in use by another sum.
inline float group_sum(float mine, threadgroup float* partial, Place place) {
    mine = simd_sum(mine);
    if (place.lane == 0) partial[place.simdgroup] = mine;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const bool there = place.lane < (place.threads + kSimdgroup - 1) / kSimdgroup;
    return simd_sum(there ? partial[place.lane] : 0.0f);
}

// 1 / sqrt(mean of squares + eps), of a sum of squares of x * shrink.
inline float root_of(float squares, float shrink, uint width, float eps) {
    return shrink * metal::precise::rsqrt(squares / float(width) + eps * shrink * shrink);
}

inline ELEMENT scaled(float value, uint i, device const ELEMENT* weight, float weight_offset,
                      uint weighted) {
    if (weighted) value *= float(weight[i]) + weight_offset;
    return ELEMENT(value);
}

// Rows of up to READS * threads elements, read once; thread t holds elements t, t + threads, ...
kernel void rms_norm_row(
    device const ELEMENT* x [[buffer(0)]],
    device const ELEMENT* weight [[buffer(1)]],
    device ELEMENT* y [[buffer(2)]],
    constant long& x_stride [[buffer(3)]],
    constant uint& width [[buffer(4)]],
    constant float& eps [[buffer(5)]],
    constant float& weight_offset [[buffer(6)]],
    constant uint& weighted [[buffer(7)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float first[kSimdgroup];
    threadgroup float second[kSimdgroup];
    const Place place = {thread_index, threads, lane, simdgroup};
    x += long(row) * x_stride;
    y += long(row) * long(width);
    float held[READS];
    float squares = 0.0f;
    for (uint k = 0; k < READS; ++k) {
        const uint i = thread_index + k * threads;
        held[k] = i < width ? float(x[i]) : 0.0f;
        squares += held[k] * held[k];
    }
    squares = group_sum(squares, first, place);
    float shrink = 1.0f;
    if (isinf(squares)) {
        shrink = kShrink;
        squares = 0.0f;
        for (uint k = 0; k < READS; ++k) squares += (held[k] * kShrink) * (held[k] * kShrink);
        squares = group_sum(squares, second, place);
    }
    const float root = root_of(squares, shrink, width, eps);
    for (uint k = 0; k < READS; ++k) {
        const uint i = thread_index + k * threads;
        if (i < width) y[i] = scaled(held[k] * root, i, weight, weight_offset, weighted);
    }
}

// Longer rows: read once for the sum, and once for y.
kernel void rms_norm_looped(
    device const ELEMENT* x [[buffer(0)]],
    device const ELEMENT* weight [[buffer(1)]],
    device ELEMENT* y [[buffer(2)]],
    constant long& x_stride [[buffer(3)]],
    constant uint& width [[buffer(4)]],
    constant float& eps [[buffer(5)]],
    constant float& weight_offset [[buffer(6)]],
    constant uint& weighted [[buffer(7)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float first[kSimdgroup];
    threadgroup float second[kSimdgroup];
    const Place place = {thread_index, threads, lane, simdgroup};
    x += long(row) * x_stride;
    y += long(row) * long(width);
    float squares = 0.0f;
    for (uint i = thread_index; i < width; i += threads) squares += float(x[i]) * float(x[i]);
    squares = group_sum(squares, first, place);
    float shrink = 1.0f;
    if (isinf(squares)) {
        shrink = kShrink;
        squares = 0.0f;
        for (uint i = thread_index; i < width; i += threads) {
            const float small = float(x[i]) * kShrink;
            squares += small * small;
        }
        squares = group_sum(squares, second, place);
    }
    const float root = root_of(squares, shrink, width, eps);
    for (uint i = thread_index; i < width; i += threads)
        y[i] = scaled(float(x[i]) * root, i, weight, weight_offset, weighted);
}
