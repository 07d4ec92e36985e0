// A thread of execution with a stack of its own, which runs until it hands over to another.
#pragma once

#ifndef QB_ASSEMBLY_SWITCH
#if defined(__x86_64__) && !defined(__APPLE__)
#define QB_ASSEMBLY_SWITCH 1
#else
#define QB_ASSEMBLY_SWITCH 0
#endif
#endif
#if !QB_ASSEMBLY_SWITCH
#include <ucontext.h>
#endif

#include <cstddef>
#include <cstdint>

namespace qb_host {

#if QB_ASSEMBLY_SWITCH
// A quarter of the cost of swapcontext, which saves the signal mask with a system call.
extern "C" void qb_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(R"(
.text
.type qb_switch, @function
qb_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size qb_switch, .-qb_switch
)");
#endif

struct Context {
#if QB_ASSEMBLY_SWITCH
    void* stack_pointer;
    static void change(Context& from, Context& to) { qb_switch(&from.stack_pointer, to.stack_pointer); }
    void start(unsigned char* stack, size_t bytes, void (*entry)()) {
        auto top = reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t(15);
        auto* words = reinterpret_cast<void**>(top);
        *--words = nullptr;  // where a return address would be: the entry never returns
        *--words = reinterpret_cast<void*>(entry);
        for (int saved = 0; saved < 6; ++saved) *--words = nullptr;
        stack_pointer = words;
    }
#else
    ucontext_t context;
    static void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
    void start(unsigned char* stack, size_t bytes, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
#endif
};

}  // namespace qb_host
