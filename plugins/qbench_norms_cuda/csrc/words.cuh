// 16 bytes of a tensor in registers, packed as they are in memory until an element is asked for.
//
// Held as whole words, so that a compiler cannot spread 16-bit elements over a register each.
#pragma once
#include "qbench/device.cuh"

/// Elements of T in 16 bytes.
template <class T>
constexpr int ELEMENTS = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ unsigned bits_of(float v) { return __float_as_uint(v); }
__device__ __forceinline__ unsigned bits_of(__half v) { return __half_as_ushort(v); }
__device__ __forceinline__ unsigned bits_of(__nv_bfloat16 v) { return __bfloat16_as_ushort(v); }

template <class T>
struct Words;

template <>
struct Words<float> {
    unsigned w[4];
    __device__ __forceinline__ float at(int e) const { return __uint_as_float(w[e]); }
};
template <>
struct Words<__half> {
    unsigned w[4];
    __device__ __forceinline__ float at(int e) const {
        return qb::to_float(__ushort_as_half(static_cast<unsigned short>(w[e / 2] >> e % 2 * 16)));
    }
};
template <>
struct Words<__nv_bfloat16> {
    unsigned w[4];
    __device__ __forceinline__ float at(int e) const {
        return __uint_as_float(e % 2 ? w[e / 2] & 0xffff0000u : w[e / 2] << 16);
    }
};

/// Element e becomes `value`, rounded; elements are put in ascending order.
template <class T>
__device__ __forceinline__ void put(Words<T>& words, int e, float value) {
    const unsigned bits = bits_of(qb::from_float<T>(value));
    if (sizeof(T) == 4) words.w[e] = bits;
    else if (e % 2) words.w[e / 2] |= bits << 16;
    else words.w[e / 2] = bits;
}

/// The elements at `from` that are among the first `live`, in accesses of WIDTH elements; others are 0.
/// WIDTH divides what may be live. STREAM: they are not read again soon.
template <int WIDTH, bool STREAM, class T>
__device__ __forceinline__ Words<T> load_words(const T* from, int live) {
    constexpr int BYTES = WIDTH * static_cast<int>(sizeof(T)), WORDS = BYTES / 4;
    Words<T> out;
#pragma unroll
    for (int i = 0; i < 4; ++i) out.w[i] = 0;
    if constexpr (BYTES == 2) {
#pragma unroll
        for (int e = 0; e < ELEMENTS<T>; ++e)
            if (e < live) out.w[e / 2] |= bits_of(from[e]) << e % 2 * 16;
    } else {
        using Piece = qb::Vec<unsigned, WORDS>;
#pragma unroll
        for (int k = 0; k < 4 / WORDS; ++k) {
            if (k * WIDTH >= live) continue;
            const Piece* const piece = reinterpret_cast<const Piece*>(from + k * WIDTH);
            // Pieces of one vector share sectors: the first brings the others into the cache.
            const Piece got = STREAM && WORDS == 4 ? qb::load_once(piece) : qb::load(piece);
#pragma unroll
            for (int i = 0; i < WORDS; ++i) out.w[k * WORDS + i] = got.v[i];
        }
    }
    return out;
}

/// Stores the first `live` elements in accesses of WIDTH elements.
template <int WIDTH, class T>
__device__ __forceinline__ void store_words(T* to, const Words<T>& words, int live) {
    constexpr int BYTES = WIDTH * static_cast<int>(sizeof(T)), WORDS = BYTES / 4;
    if constexpr (BYTES == 2) {
#pragma unroll
        for (int e = 0; e < ELEMENTS<T>; ++e)
            if (e < live) reinterpret_cast<unsigned short*>(to)[e] = static_cast<unsigned short>(words.w[e / 2] >> e % 2 * 16);
    } else {
        using Piece = qb::Vec<unsigned, WORDS>;
#pragma unroll
        for (int k = 0; k < 4 / WORDS; ++k) {
            if (k * WIDTH >= live) continue;
            Piece piece;
#pragma unroll
            for (int i = 0; i < WORDS; ++i) piece.v[i] = words.w[k * WORDS + i];
            Piece* const target = reinterpret_cast<Piece*>(to + k * WIDTH);
            if (WORDS == 4) qb::store_once(target, piece);
            else qb::store(target, piece);
        }
    }
}
