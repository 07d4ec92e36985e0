// Vectors at addresses that are no multiple of their size: read and written whole all the same.
//
// Narrow accesses would each cost as much as a wide one. Here a thread reads the aligned chunks of 16
// bytes that its vector lies in, and shifts; the chunk that it shares with its neighbour comes from the
// first-level cache. A chunk is read only where a byte of it is wanted, so that nothing is read of a
// page that the row is not on. What is written is put together with the neighbour's, lane by lane.
#pragma once
#include "qbench/device.cuh"

namespace qb {

/// The N elements at `from`, 4 bytes of them or more; those from `live` on are 0.
template <int N, class T>
__device__ __forceinline__ Vec<T, N> load_shifted(const T* from, int live) {
    constexpr int CHUNK = N * sizeof(T), WORDS = CHUNK / 4;
    Vec<T, N> out;
    if constexpr (CHUNK > 16) {
        auto* halves = reinterpret_cast<Vec<T, N / 2>*>(&out);
        halves[0] = load_shifted<N / 2>(from, live);
        halves[1] = load_shifted<N / 2>(from + N / 2, live - N / 2);
        return out;
    } else {
        using Chunk = Vec<unsigned, WORDS>;
        const unsigned long long address = reinterpret_cast<unsigned long long>(from);
        const int shift = static_cast<int>(address % CHUNK);
        const Chunk* chunks = reinterpret_cast<const Chunk*>(address - shift);
        const int wanted = live > 0 ? shift + (live < N ? live : N) * static_cast<int>(sizeof(T)) : 0;
        unsigned words[2 * WORDS];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            Chunk got{};
            if (c * CHUNK < wanted) got = load(chunks + c);
#pragma unroll
            for (int k = 0; k < WORDS; ++k) words[c * WORDS + k] = got.v[k];
        }
#pragma unroll
        for (int step = 1; step < WORDS; step *= 2) {
            const bool further = shift / 4 & step;
#pragma unroll
            for (int k = 0; k < 2 * WORDS - step; ++k) words[k] = further ? words[k + step] : words[k];
        }
        unsigned* to = reinterpret_cast<unsigned*>(&out);
#pragma unroll
        for (int k = 0; k < WORDS; ++k) {
            const unsigned long long pair = static_cast<unsigned long long>(words[k + 1]) << 32 | words[k];
            to[k] = static_cast<unsigned>(pair >> 8 * (shift % 4));
        }
        if (live < N) {
#pragma unroll
            for (int e = 0; e < N; ++e)
                if (e >= live) out.v[e] = from_float<T>(0.0f);
        }
        return out;
    }
}

/// Stores the first `live` of N elements; `to` is N elements further in each lane of a group of GROUP.
/// All lanes of the warp call it.
template <int GROUP, int N, class T>
__device__ __forceinline__ void store_shifted(T* to, const Vec<T, N>& values, int live) {
    constexpr int SIZE = sizeof(T), CHUNK = N * SIZE, WORDS = CHUNK / 4;
    const unsigned* own = reinterpret_cast<const unsigned*>(&values);
    unsigned words[2 * WORDS + 1];
#pragma unroll
    for (int k = 0; k < WORDS; ++k) {
        words[k] = __shfl_up_sync(0xffffffffu, own[k], 1);
        words[WORDS + k] = own[k];
    }
    words[2 * WORDS] = 0;
    const int lane = threadIdx.x % GROUP;
    // A chunk begins `head` bytes before the lane's vector ends: the rest of it is the neighbour's.
    const int shift = static_cast<int>(reinterpret_cast<unsigned long long>(to) % CHUNK), head = CHUNK - shift;
    const auto whole = [&](int elements) { return elements * SIZE >= head; };
    const bool complete = (lane > 0 || shift == 0) && whole(live);
    if (complete) {
#pragma unroll
        for (int step = 1; step <= WORDS; step *= 2) {
            const bool further = head / 4 & step;
#pragma unroll
            for (int k = 0; k + step <= 2 * WORDS; ++k) words[k] = further ? words[k + step] : words[k];
        }
        Vec<unsigned, WORDS> chunk;
#pragma unroll
        for (int k = 0; k < WORDS; ++k) {
            const unsigned long long pair = static_cast<unsigned long long>(words[k + 1]) << 32 | words[k];
            chunk.v[k] = static_cast<unsigned>(pair >> 8 * (head % 4));
        }
        store_once(reinterpret_cast<Vec<unsigned, WORDS>*>(reinterpret_cast<unsigned char*>(to) - shift), chunk);
    }
    // What no chunk has: of the first lane its head, of the last one in the row or the group its tail.
    const bool continued = lane + 1 < GROUP && whole(live - N);
#pragma unroll
    for (int e = 0; e < N; ++e)
        if (e < live && !(e * SIZE < head ? complete : continued)) to[e] = values.v[e];
}

}  // namespace qb
