// A row held by threads: which vectors of 16 bytes each thread has, loaded once, packed as they are.
//
// Thread t of a row's threads holds vectors t, t + threads, t + 2 threads, ...: the assignment, and so
// every sum, depends on the length of the row alone. How many elements one access moves (WIDTH) is
// another matter: a vector that is not aligned is moved in pieces.
#pragma once
#include "misaligned.cuh"
#include "qbench/device.cuh"

namespace qb {

/// Elements of T in 16 bytes.
template <class T>
constexpr int LANES_OF = 16 / static_cast<int>(sizeof(T));

/// 16 bytes of a row.
template <class T>
using Packed = Vec<T, LANES_OF<T>>;

__host__ __device__ constexpr int at_most(int a, int b) { return a < b ? a : b; }

/// The vectors of one thread: number `first + i * step` for its item i, in a row of `n` elements.
template <class T>
struct Place {
    int first, step, n;

    /// First element of item i.
    __device__ __forceinline__ int column(int i) const { return (first + i * step) * LANES_OF<T>; }
    /// Elements of item i that are in the row: below 1 for none.
    __device__ __forceinline__ int live(int i) const { return n - first * LANES_OF<T> - i * step * LANES_OF<T>; }
    /// Item i of a row at `row`. What differs between items is a constant, so that one address serves all.
    template <class E>
    __device__ __forceinline__ E* item(E* row, int i) const {
        return row + 1ll * first * LANES_OF<T> + 1ll * i * step * LANES_OF<T>;
    }
};

/// The same to all but the compiler, where accesses of WIDTH elements are too narrow: what is live of a
/// row is worked out again in each pass over it, rather than kept for every element.
template <int WIDTH, class T>
__device__ __forceinline__ Place<T> again(Place<T> place) {
#ifndef QB_HOST_EMU
    if constexpr (WIDTH < LANES_OF<T>) asm volatile("" : "+r"(place.first), "+r"(place.n));
#endif
    return place;
}

__device__ __forceinline__ void round_pair(float a, float b, unsigned& to, __half) {
    const __half2 pair = __floats2half2_rn(a, b);
    to = reinterpret_cast<const unsigned&>(pair);
}

__device__ __forceinline__ void round_pair(float a, float b, unsigned& to, __nv_bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    to = reinterpret_cast<const unsigned&>(pair);
}

/// Element e of a vector as float. Of pairs of 16 bits, from the word that both are in: single ones
/// would take a register each.
template <int N>
__device__ __forceinline__ float element(const Vec<float, N>& values, int e) {
    return values.v[e];
}

template <int N>
__device__ __forceinline__ float element(const Vec<__half, N>& values, int e) {
    return to_float(values.v[e]);
}

template <int N>
__device__ __forceinline__ float element(const Vec<__nv_bfloat16, N>& values, int e) {
    if constexpr (N == 1) return to_float(values.v[0]);
    const unsigned word = reinterpret_cast<const unsigned*>(&values)[e / 2];
    return __uint_as_float(e % 2 ? word & 0xffff0000u : word << 16);
}

/// Floats rounded to T.
template <class T, int N>
__device__ __forceinline__ Vec<T, N> rounded(const float (&values)[N]) {
    Vec<T, N> out;
    if constexpr (sizeof(T) == 4 || N == 1) {
#pragma unroll
        for (int e = 0; e < N; ++e) out.v[e] = from_float<T>(values[e]);
    } else {
#pragma unroll
        for (int e = 0; e < N; e += 2) round_pair(values[e], values[e + 1], reinterpret_cast<unsigned*>(&out)[e / 2], T{});
    }
    return out;
}

/// Elements of one access: WIDTH of them, or as many as fit in 16 bytes.
template <class T, int N, int WIDTH>
constexpr int PIECE_OF = at_most(at_most(WIDTH, N), 16 / static_cast<int>(sizeof(T)));

/// N elements from `from`, which is aligned to WIDTH of them; those from `live` on are 0.
/// WIDTH divides the length of the row, so that an aligned access is in the row or not.
/// STREAM: read once, so that it need not stay in the cache.
template <int WIDTH, bool STREAM, int N, class T>
__device__ __forceinline__ Vec<T, N> load_part(const T* from, int live) {
    constexpr int PIECE = PIECE_OF<T, N, WIDTH>;
    if constexpr (PIECE < PIECE_OF<T, N, N>) {
        return load_shifted<N>(from, live);
    } else {
        using Bits = Vec<unsigned, PIECE * sizeof(T) / 4>;
        Vec<T, N> out;
#pragma unroll
        for (int k = 0; k < N / PIECE; ++k) {
            Bits got{};
            const Bits* piece = reinterpret_cast<const Bits*>(from) + k;
            if (k * PIECE < live) got = STREAM ? load_once(piece) : load(piece);
            reinterpret_cast<Bits*>(&out)[k] = got;
        }
        return out;
    }
}

/// Stores the first `live` of N elements, in accesses of WIDTH elements.
template <int WIDTH, int N, class T>
__device__ __forceinline__ void store_part(T* to, const Vec<T, N>& values, int live) {
    constexpr int PIECE = PIECE_OF<T, N, WIDTH>;
#pragma unroll
    for (int k = 0; k < N; k += PIECE) {
        Vec<T, PIECE> piece;
#pragma unroll
        for (int e = 0; e < PIECE; ++e) piece.v[e] = values.v[k + e];
        auto* target = reinterpret_cast<Vec<T, PIECE>*>(to + k);
        if (k >= live) continue;
        if (PIECE == N) store_once(target, piece);
        else store(target, piece);
    }
}

/// Likewise, where the lanes of a warp (LANES of them a row, or all) have neighbouring vectors of a row;
/// all lanes call it.
template <int WIDTH, int LANES, int N, class T>
__device__ __forceinline__ void store_row(T* to, const Vec<T, N>& values, int live) {
    if constexpr (WIDTH < N) store_shifted<at_most(LANES, 32)>(to, values, live);
    else store_part<WIDTH>(to, values, live);
}

/// Sum of term(value as float) over the first `live` elements of a vector.
template <int WIDTH, class T, int N, class F>
__device__ __forceinline__ float sum_of(const Vec<T, N>& values, int live, F term) {
    float sum = 0.0f;
    if constexpr (WIDTH >= N) {
#pragma unroll
        for (int e = 0; e < N; ++e) sum += term(element(values, e));
        return live > 0 ? sum : 0.0f;
    } else {
#pragma unroll
        for (int e = 0; e < N; ++e) sum += e < live ? term(element(values, e)) : 0.0f;
        return sum;
    }
}

/// A thread's share of a row in registers: ITEMS vectors.
template <class T, int ITEMS>
struct InRegisters {
    Packed<T> v[ITEMS];

    __device__ __forceinline__ Packed<T>& operator[](int i) { return v[i]; }

    /// Makes the compiler forget what it computed of the row: kept, that would take more registers than
    /// the row itself, and computing it again is cheap.
    __device__ __forceinline__ void forget() {
#ifndef QB_HOST_EMU
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) asm volatile("" : "+r"(reinterpret_cast<unsigned*>(&v[i])[k]));
#endif
    }
    static constexpr int PER_ROUND = at_most(ITEMS, 4), ROUNDS_UNROLLED = ITEMS;
    __device__ __forceinline__ static constexpr int items() { return ITEMS; }
};

/// A thread's share of a row in shared memory, which no other thread touches: item i at v[i * step].
template <class T>
struct InShared {
    Packed<T>* v;
    int count, step;

    __device__ __forceinline__ Packed<T>& operator[](int i) { return v[i * step]; }
    __device__ __forceinline__ void forget() {}
    static constexpr int PER_ROUND = 4, ROUNDS_UNROLLED = 1;
    __device__ __forceinline__ int items() const { return count; }
};

/// Calls visit(i) for each item of a thread; all threads of a row call it as often.
template <class T, int ITEMS, class F>
__device__ __forceinline__ void each_item(InRegisters<T, ITEMS>&, F visit) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) visit(i);
}

template <class T, class F>
__device__ __forceinline__ void each_item(InShared<T>& held, F visit) {
#pragma unroll 4
    for (int i = 0; i < held.count; ++i) visit(i);
}

}  // namespace qb
