// A kernel whose accesses of memory are looked at: what -fsanitize=thread calls before each of them.
// The library of the sanitizer itself is not linked, as it would have to be in the whole process.
#ifndef QB_HOST_RACES_H
#define QB_HOST_RACES_H

#define QB_HOST_UNSEEN __attribute__((no_sanitize("thread")))
#define QB_HOST_ATOMIC_ACCESS(address)                                                      \
    ::qb_host::look(address, sizeof *(address), ::qb_host::Access::atomic, __builtin_return_address(0))

#include "host_threads.h"

namespace qb_host {

QB_HOST_UNSEEN inline void look(const void* address, size_t bytes, Access how, const void* from) {
    const Runtime* to = runtime;  // none while the library is loaded
    if (to && address != static_cast<const void*>(&runtime)) to->accessed(address, bytes, how, from);
}

}  // namespace qb_host

#define QB_HOST_HOOK(result, name) extern "C" QB_HOST_UNSEEN __attribute__((visibility("hidden"))) result name
#define QB_HOST_LOOK(name, size, how)                                                       \
    QB_HOST_HOOK(void, name)(void* address) {                                               \
        ::qb_host::look(address, size, ::qb_host::Access::how, __builtin_return_address(0)); \
    }
#define QB_HOST_LOOKS(size)                                 \
    QB_HOST_LOOK(__tsan_read##size, size, read)             \
    QB_HOST_LOOK(__tsan_write##size, size, write)           \
    QB_HOST_LOOK(__tsan_unaligned_read##size, size, read)   \
    QB_HOST_LOOK(__tsan_unaligned_write##size, size, write)
QB_HOST_LOOKS(1)
QB_HOST_LOOKS(2)
QB_HOST_LOOKS(4)
QB_HOST_LOOKS(8)
QB_HOST_LOOKS(16)
QB_HOST_HOOK(void, __tsan_read_range)(void* address, size_t bytes) {
    ::qb_host::look(address, bytes, ::qb_host::Access::read, __builtin_return_address(0));
}
QB_HOST_HOOK(void, __tsan_write_range)(void* address, size_t bytes) {
    ::qb_host::look(address, bytes, ::qb_host::Access::write, __builtin_return_address(0));
}
// clang calls these for what g++ takes apart.
QB_HOST_HOOK(void*, __tsan_memcpy)(void* to, const void* from, size_t bytes) {
    ::qb_host::look(from, bytes, ::qb_host::Access::read, __builtin_return_address(0));
    ::qb_host::look(to, bytes, ::qb_host::Access::write, __builtin_return_address(0));
    return __builtin_memcpy(to, from, bytes);
}
QB_HOST_HOOK(void*, __tsan_memmove)(void* to, const void* from, size_t bytes) {
    ::qb_host::look(from, bytes, ::qb_host::Access::read, __builtin_return_address(0));
    ::qb_host::look(to, bytes, ::qb_host::Access::write, __builtin_return_address(0));
    return __builtin_memmove(to, from, bytes);
}
QB_HOST_HOOK(void*, __tsan_memset)(void* to, int value, size_t bytes) {
    ::qb_host::look(to, bytes, ::qb_host::Access::write, __builtin_return_address(0));
    return __builtin_memset(to, value, bytes);
}
// Of functions and of objects with virtual functions nothing is wanted.
QB_HOST_HOOK(void, __tsan_init)() {}
QB_HOST_HOOK(void, __tsan_func_entry)(void*) {}
QB_HOST_HOOK(void, __tsan_func_exit)() {}
QB_HOST_HOOK(void, __tsan_vptr_update)(void*, void*) {}
QB_HOST_HOOK(void, __tsan_vptr_read)(void*) {}

#include "host_cuda.h"

#endif  // QB_HOST_RACES_H
