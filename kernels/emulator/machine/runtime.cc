// The machine that a kernel runs on: blocks one after the other, their threads as fibers.
//
// A fiber is a stack of its own. It runs until its thread ends, or has to wait for others; then the
// scheduler goes on with the next. So there is one order in which all happens, and it is chosen: a
// correct kernel gives the same result in every order of its threads and blocks, and a kernel that
// forgot a barrier mostly does not.
//
// What it checks: limits of a launch, barriers that not all threads reach, warp operations whose
// lanes disagree, writes beyond a shared array, accesses to memory that is not there.

#include "machine.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <numeric>
#include <random>

#include <ucontext.h>

namespace emulator {

uint3 block_index;
dim3 block_size, grid_size;
Watcher* watcher;

// --- errors -----------------------------------------------------------------------------------

static std::string failure;

void fail(const char* format, ...) {
    if (!failure.empty()) return;  // the first one caused the others
    char text[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    failure = text;
}

// The linker's name for where the library begins, in memory.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[];

uint32_t place_of(const void* instruction) {
    return uint32_t(static_cast<const char*>(instruction) - __ehdr_start);
}

std::string position(uint3 thread, uint3 block) {
    char text[100];
    snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", thread.x, thread.y,
             thread.z, block.x, block.y, block.z);
    return text;
}

namespace {

sigjmp_buf out_of_the_kernel;

// A page fault: the arrays of the device end at pages that cannot be touched (memory.py).
void on_fault(int, siginfo_t* info, void* registers) {
    uint32_t place = 0;
#if defined(__x86_64__)
    auto& all = static_cast<ucontext_t*>(registers)->uc_mcontext.gregs;
    place = place_of(reinterpret_cast<void*>(all[REG_RIP]));
#endif
    (void)registers;
    fail("@%x@: %s touches memory that is not there, at %p", place, position(*current).c_str(),
         info->si_addr);
    siglongjmp(out_of_the_kernel, 1);
}

// --- warps ------------------------------------------------------------------------------------

// An operation for which not all lanes of its mask have come yet. Branches of a warp may each have
// one of their own, with other lanes.
struct Pending {
    unsigned mask, arrived;
    int warp, line;
    char values[32 * 16];
};
std::vector<Pending> pending;

// --- blocks -----------------------------------------------------------------------------------

constexpr int MOST_ATOMICS = 1 << 20;  // of a thread, before it lets others go on

int barrier_votes[2];  // of a barrier, and of the one before it
int barriers;          // passed so far
std::vector<int> order;
unsigned order_number;
std::mt19937 random_numbers;

void permute(std::vector<int>& items) {
    std::iota(items.begin(), items.end(), 0);
    if (order_number == 1) std::reverse(items.begin(), items.end());
    if (order_number > 1) std::shuffle(items.begin(), items.end(), random_numbers);
}

// All that can run have run. True if the block may go on: its threads met at one barrier.
bool pass_barrier() {
    const Fiber* waiting = nullptr;
    const Fiber* ended = nullptr;
    for (size_t i = 0; i < threads; i++) {
        const Fiber& f = fibers[i];
        if (f.state == IN_WARP) {
            unsigned come = 0;
            for (const Pending& p : pending) {
                if (p.warp == f.warp && p.mask == f.mask) come = p.arrived;
            }
            fail("line %d: %s waits for lanes %08x of its warp, of which only %08x come", f.line,
                 position(f).c_str(), f.mask, come);
            return false;
        }
        if (f.state == DONE) ended = &f;
        if (f.state != AT_BARRIER) continue;
        if (waiting && waiting->line != f.line) {
            fail("divergent barrier: %s waits at line %d, thread (%u, %u, %u) at line %d",
                 position(f).c_str(), f.line, waiting->index.x, waiting->index.y,
                 waiting->index.z, waiting->line);
            return false;
        }
        waiting = &f;
    }
    if (waiting && ended) {
        fail("divergent barrier: %s waits at line %d, thread (%u, %u, %u) has ended",
             position(*waiting).c_str(), waiting->line, ended->index.x, ended->index.y,
             ended->index.z);
        return false;
    }
    for (size_t i = 0; i < threads; i++) fibers[i].state = READY;
    barriers++;
    if (watcher) watcher->barrier_passed();
    barrier_votes[(barriers + 1) & 1] = 0;  // of the next; those of this one are still to be read
    return true;
}

// Run each of order[begin .. end) that can run, once. False if none can.
bool run_ready(size_t begin, size_t end) {
    bool ran = false;
    for (size_t i = begin; i < end && failure.empty(); i++) {
        Fiber& f = fibers[order[i]];
        if (f.state != READY) continue;
        resume(f);
        ran = true;
    }
    return ran;
}

// Run all that can run. As numbered or the other way round, one warp goes as far as it can before
// the next begins; in a random order all go forward together.
bool run_all() {
    if (order_number > 1) return run_ready(0, threads);
    bool ran = false;
    for (size_t begin = 0, end; begin < threads; begin = end) {
        int warp = fibers[order[begin]].warp;
        for (end = begin; end < threads && fibers[order[end]].warp == warp;) end++;
        while (run_ready(begin, end)) ran = true;
    }
    return ran;
}

void run_block(size_t dynamic) {
    begin_shared(dynamic);
    for (size_t i = 0; i < threads; i++) fibers[i].state = READY;
    pending.clear();
    barriers = barrier_votes[0] = barrier_votes[1] = 0;
    auto ended = [](int i) { return fibers[i].state == DONE; };
    permute(order);
    if (watcher) watcher->block_begins();
    while (failure.empty() && !std::all_of(order.begin(), order.end(), ended)) {
        if (run_all()) continue;
        if (!pass_barrier()) return;
        permute(order);
    }
    if (watcher) watcher->block_ends();
    check_red_zones();
}

// The limits of compute capability 7.5 and above, which the driver checks.
void check_launch(dim3 grid, dim3 block, size_t most_threads, size_t dynamic) {
    uint64_t count = uint64_t(block.x) * block.y * block.z;
    if (!count || count > 1024 || block.z > 64) {
        fail("a block of (%u, %u, %u) threads: there may be 1 to 1024, and 64 in z", block.x,
             block.y, block.z);
    } else if (count > most_threads) {
        fail("a block of %zu threads, where __launch_bounds__ promises at most %zu",
             size_t(count), most_threads);
    } else if (dynamic > MOST_SHARED) {
        fail("%zu bytes of shared memory: a block may have %zu", dynamic, MOST_SHARED);
    } else if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 ||
               grid.z > 65535) {
        fail("a grid of (%u, %u, %u) blocks: there may be 1 to 2^31 - 1 in x, 65535 in y and z",
             grid.x, grid.y, grid.z);
    }
}

}  // namespace

// --- what the shim calls ----------------------------------------------------------------------

void barrier(int line) {
    Fiber& f = me();
    f.line = line;
    f.state = AT_BARRIER;
    wait(f);
}

int barrier_count(int predicate, int line) {
    int slot = (barriers + 1) & 1;
    barrier_votes[slot] += predicate != 0;
    barrier(line);
    return barrier_votes[slot];
}

const char* exchange(unsigned mask, const void* value, size_t bytes, int line) {
    Fiber& f = me();
    size_t lanes = std::min<size_t>(32, threads - 32 * f.warp);
    unsigned there = lanes == 32 ? ~0u : (1u << lanes) - 1;
    if (!(mask >> f.lane & 1)) {
        fail("line %d: %s is not in the mask %08x that it names", line, position(f).c_str(), mask);
    } else if (mask & ~there) {
        fail("line %d: the mask %08x names lanes that the block's %zu threads do not fill", line,
             mask, threads);
    }
    Pending* mine = nullptr;
    for (Pending& p : pending) {
        if (p.warp != f.warp || p.mask != mask) continue;
        mine = &p;
        if (p.line != line) {
            fail("line %d: %s comes with mask %08x while others wait for it at line %d", line,
                 position(f).c_str(), mask, p.line);
        }
    }
    if (!failure.empty()) wait(f);  // never resumed
    if (!mine) {
        pending.push_back({mask, 0, f.warp, line, {}});
        mine = &pending.back();
    }
    if (bytes) std::memcpy(mine->values + 16 * f.lane, value, bytes);
    mine->arrived |= 1u << f.lane;
    if (mine->arrived != mask) {
        f.line = line, f.mask = mask;
        f.state = IN_WARP;
        wait(f);
        return f.values;
    }
    for (size_t lane = 0; lane < lanes; lane++) {
        Fiber& other = fibers[32 * f.warp + lane];
        if (!(mask >> lane & 1)) continue;
        std::memcpy(other.values, mine->values, sizeof other.values);
        other.state = READY;
    }
    // Of all operations of a warp only __syncwarp, which exchanges nothing, orders memory.
    if (watcher && !bytes) watcher->warp_synchronised(f.warp, mask);
    *mine = pending.back();
    pending.pop_back();
    return f.values;
}

void absent_lane(int from, unsigned mask, int line) {
    fail("line %d: %s reads lane %d, which is not in the mask %08x", line, position(me()).c_str(),
         from, mask);
    wait(me());
}

void refuse(const char* what, int line) {
    fail("line %d: %s %s", line, position(me()).c_str(), what);
    wait(me());
}

void atomic_access(const void* at, size_t bytes, const void* after) {
    uint32_t place = place_of(after) - 1;
    if (++me().atomics > MOST_ATOMICS) {
        fail("@%x@: %s made %d atomic operations without a barrier: threads take turns here, and "
             "one that waits for another in a loop waits forever",
             place, position(me()).c_str(), MOST_ATOMICS);
        wait(me());
    }
    if (watcher) watcher->access(ATOMIC, at, bytes, true, place);
}

void fence() {
    if (watcher) watcher->fence();
}

extern "C" void emulator_order(unsigned number) { order_number = number; }

int launch(void (*kernel_)(void*), void* arguments, dim3 grid, dim3 block, size_t most_threads,
           size_t dynamic, char* error, size_t length) {
    failure.clear();
    kernel = kernel_, kernel_arguments = arguments;
    grid_size = grid, block_size = block;
    check_launch(grid, block, most_threads, dynamic);
    if (failure.empty()) {
        threads = size_t(block.x) * block.y * block.z;
        random_numbers.seed(order_number);
        poison(arena, ARENA);
        order.resize(threads);
        make_fibers();
        std::vector<int> blocks(size_t(grid.x) * grid.y * grid.z);
        permute(blocks);

        static char signal_stack[1 << 16];
        stack_t own_stack = {}, stack_before;
        own_stack.ss_sp = signal_stack, own_stack.ss_size = sizeof signal_stack;
        sigaltstack(&own_stack, &stack_before);
        struct sigaction action = {}, fault_before, bus_before;
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &fault_before);
        sigaction(SIGBUS, &action, &bus_before);
        if (watcher) watcher->launch_begins();
        if (failure.empty() && !sigsetjmp(out_of_the_kernel, 1)) {
            for (int b : blocks) {
                unsigned n = b;
                block_index = {n % grid.x, n / grid.x % grid.y, n / grid.x / grid.y};
                run_block(dynamic);
                if (!failure.empty()) break;
            }
            if (watcher) watcher->launch_ends();
        }
        current = nullptr;  // from here on it is not a kernel that runs
        sigaction(SIGSEGV, &fault_before, nullptr);
        sigaction(SIGBUS, &bus_before, nullptr);
        sigaltstack(&stack_before, nullptr);
    }
    snprintf(error, length, "%s", failure.c_str());
    return !failure.empty();
}

}  // namespace emulator
