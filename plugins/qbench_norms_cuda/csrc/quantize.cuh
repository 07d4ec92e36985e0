// What becomes of a normalized row: kept as it is, or codes and scales of 8 bits.
//
// Scales and codes are those of the suite's own rules, bit for bit: groups of zeros have scale 1, NaN
// and infinities leave the scale alone, quotients are rounded correctly before they become codes.
#pragma once
#include "moments.cuh"
#include "row.cuh"

namespace qb {

constexpr float LARGEST_FLOAT = 3.402823466e38f;
constexpr float LARGEST_AMAX = 3.4e38f;

struct Fp8E4M3 {
    static constexpr float LARGEST = 448.0f;

    template <int N>
    static __device__ __forceinline__ Vec<unsigned char, N> codes(const float (&q)[N]) {
        Vec<unsigned char, N> out;
#pragma unroll
        for (int e = 0; e < N; e += 2) {
            const unsigned short pair = to_e4m3(q[e], q[e + 1]);
            out.v[e] = static_cast<unsigned char>(pair);
            out.v[e + 1] = static_cast<unsigned char>(pair >> 8);
        }
        return out;
    }
};

struct Int8 {
    static constexpr float LARGEST = 127.0f;

    template <int N>
    static __device__ __forceinline__ Vec<unsigned char, N> codes(const float (&q)[N]) {
        Vec<unsigned char, N> out;
#pragma unroll
        for (int e = 0; e < N; ++e) out.v[e] = static_cast<unsigned char>(to_int8(q[e]));
        return out;
    }
};

/// Divides by one scale many times, each quotient rounded correctly.
struct Divisor {
    float scale, inverse;
    bool direct;

    explicit __device__ __forceinline__ Divisor(float scale)
        : scale(scale),
          inverse(divide(1.0f, scale)),
          // Beyond these the remainder below is not exact.
          direct(!(scale > 0x1p-60f && scale < 0x1p60f)) {}

    __device__ __forceinline__ float operator()(float y) const {
        if (direct) return divide(y, scale);
        // Markstein: the quotient by the rounded inverse, corrected by its exact remainder.
        const float near = __fmul_rn(y, inverse);
        const float quotient = fmaf(fmaf(-near, scale, y), inverse, near);
        return fabsf(near) <= LARGEST_FLOAT ? quotient : near;
    }
};

/// scale = amax / largest code.
struct AbsMaxRule {
    template <class CODE>
    static __device__ __forceinline__ float scale(float amax) {
        const float scale = divide(fminf(amax, LARGEST_AMAX), CODE::LARGEST);
        return amax > 0.0f ? fmaxf(scale, 0x1p-126f) : 1.0f;
    }
};

/// E8M0: 2^(floor(log2 amax) − exponent of the largest code).
struct PowerOfTwoRule {
    static __device__ __forceinline__ float below(float x) {
        return __int_as_float(__float_as_int(x) & 0x7f800000);
    }
    template <class CODE>
    static __device__ __forceinline__ float scale(float amax) {
        const float scale = divide(below(amax), below(CODE::LARGEST));
        return amax > 0.0f ? fminf(fmaxf(scale, 0x1p-127f), 0x1p127f) : 1.0f;
    }
};

// ---- outputs

/// y itself.
struct Plain {
    static constexpr bool QUANTIZED = false, WHOLE_ROW = false;
};

/// Codes by a scale that is given.
template <class CODE>
struct Static {
    using Code = CODE;
    static constexpr bool QUANTIZED = true, WHOLE_ROW = false;
    static constexpr int CHUNK = 0;
};

/// Codes and a scale a row.
template <class CODE>
struct PerRow {
    using Code = CODE;
    static constexpr bool QUANTIZED = true, WHOLE_ROW = true;
};

/// Codes and a scale a chunk of SIZE elements.
template <class CODE, int SIZE, class RULE>
struct PerChunk {
    using Code = CODE;
    using Rule = RULE;
    static constexpr bool QUANTIZED = true, WHOLE_ROW = false;
    static constexpr int CHUNK = SIZE;
};

/// Absolute maximum of the finite values among the first `live` of a vector.
template <class T, int N>
__device__ __forceinline__ float largest_of(const Vec<T, N>& y, int live) {
    float largest = 0.0f;
#pragma unroll
    for (int e = 0; e < N; ++e) {
        const float size = fabsf(element(y, e));
        largest = fmaxf(largest, e < live && size <= LARGEST_FLOAT ? size : 0.0f);
    }
    return largest;
}

template <class CODE, class T, int N>
__device__ __forceinline__ Vec<unsigned char, N> codes_of(const Vec<T, N>& y, const Divisor& by) {
    float q[N];
#pragma unroll
    for (int e = 0; e < N; ++e) q[e] = by(element(y, e));
    return CODE::codes(q);
}

}  // namespace qb
