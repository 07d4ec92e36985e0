// Signals of a bad address, for the time of a launch: a kernel's mistake must not end Python.
#pragma once

#include "machine.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

namespace qb_host {

static sigjmp_buf fault_exit;
static pthread_t fault_thread;
static volatile sig_atomic_t fault_signal;
static const unsigned char* volatile fault_address;

static void on_fault(int signal, siginfo_t* info, void*) {
    if (!pthread_equal(pthread_self(), fault_thread)) {  // no kernel's mistake: as if nobody had asked
        ::signal(signal, SIG_DFL);
        return;
    }
    fault_signal = signal;
    fault_address = static_cast<const unsigned char*>(info->si_addr);
    siglongjmp(fault_exit, 1);
}

static std::string fault() {
    const unsigned char* stacks = machine.stacks;
    if (fault_signal == SIGFPE) return "an integer division by zero: " + who(*machine.running);
    if (fault_address >= stacks && fault_address < stacks + machine.stride * machine.stack_count)
        return text("a stack of more than %zu bytes: ", kStackBytes) + who(*machine.running);
    return text("an address that cannot be accessed, %p: ", static_cast<const void*>(fault_address)) +
           who(*machine.running);
}

// Takes the signals of a bad address for the time of a launch; a kernel's mistake must not end Python.
struct FaultGuard {
    static constexpr int kSignals[3] = {SIGSEGV, SIGBUS, SIGFPE};
    struct sigaction before[3];
    stack_t stack_before;
    std::vector<unsigned char> stack = std::vector<unsigned char>(64 * 1024);
    FaultGuard() {
        stack_t own{};
        own.ss_sp = stack.data();
        own.ss_size = stack.size();
        sigaltstack(&own, &stack_before);
        struct sigaction action{};
        fault_thread = pthread_self();
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_ONSTACK | SA_SIGINFO;
        for (int which = 0; which < 3; ++which) sigaction(kSignals[which], &action, &before[which]);
    }
    ~FaultGuard() {
        for (int which = 0; which < 3; ++which) sigaction(kSignals[which], &before[which], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
};

}  // namespace qb_host
