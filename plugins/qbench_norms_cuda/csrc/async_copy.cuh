// Copies from global to shared memory that go on while the thread does other things: cp.async, on
// sm_80 and newer; before, a copy is done when the call returns.
#pragma once

#include "qbench/device.cuh"

namespace qb {

// Copies a vector; both addresses are multiples of its size. Only the thread itself may count on having
// it, after wait_for_copies. Two bytes are too few for the hardware, and are copied at once.
template <class T, int N>
QB_INLINE void copy_async(Vec<T, N>* shared, const Vec<T, N>* global) {
    constexpr int bytes = sizeof(T) * N;
    static_assert(bytes <= 16, "one instruction copies up to 16 bytes");
#ifdef QB_HOST_EMU
    detail::check_alignment(shared);
    detail::check_alignment(global);
    if constexpr (bytes >= 4) {
        qb_host::runtime->copy_async(shared, global, bytes);
        return;
    }
#elif QB_ARCH >= 800
    const unsigned int to = static_cast<unsigned int>(__cvta_generic_to_shared(shared));
    const size_t from = __cvta_generic_to_global(global);
    if constexpr (bytes == 16) {  // past the first-level cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
        return;
    } else if constexpr (bytes >= 4) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(bytes) : "memory");
        return;
    }
#endif
    store(shared, load(global));
}

// Ends a batch of copies of this thread.
QB_INLINE void end_of_copies() {
#ifdef QB_HOST_EMU
    qb_host::runtime->commit_copies();
#elif QB_ARCH >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all batches of this thread but the last `Pending` are done.
template <int Pending>
QB_INLINE void wait_for_copies() {
#ifdef QB_HOST_EMU
    qb_host::runtime->wait_for_copies(Pending);
#elif QB_ARCH >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

// Asks for the line at `address` to be brought into the second-level cache; changes nothing else.
QB_INLINE void prefetch_line(const void* address) {
#ifndef QB_HOST_EMU
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
#endif
}

}  // namespace qb
