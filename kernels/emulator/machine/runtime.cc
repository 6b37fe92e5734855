// The machine that runs a kernel: blocks one after the other, their threads as fibers.
//
// A fiber has its own stack. It runs until its thread ends or has to wait for other threads; then
// the scheduler resumes the next fiber. So a launch runs in one definite order, which the caller
// chooses: a correct kernel gives the same result in every order of its threads and blocks, and a
// kernel with a missing barrier usually does not.
//
// Checked here: limits of a launch, barriers that not all threads reach, warp operations whose
// lanes disagree, writes beyond a shared array, accesses to unmapped memory.

#include "denormals.h"
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
    if (!failure.empty()) return;  // later failures follow from the first
    char text[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    failure = text;
}

// The linker's name for the first address of the loaded library.
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

// Handles a page fault: device arrays lie between inaccessible pages (memory.py).
void on_fault(int, siginfo_t* info, void* registers) {
    uint32_t place = 0;
#if defined(__x86_64__)
    auto& all = static_cast<ucontext_t*>(registers)->uc_mcontext.gregs;
    place = place_of(reinterpret_cast<void*>(all[REG_RIP]));
#endif
    (void)registers;
    fail("@%x@: %s accesses unmapped memory at %p", place, position(*current).c_str(),
         info->si_addr);
    siglongjmp(out_of_the_kernel, 1);
}

// --- warps ------------------------------------------------------------------------------------

// A warp operation that some lanes of its mask have not reached yet. Each branch of a warp may have
// its own, with other lanes.
struct Pending {
    unsigned mask, arrived;
    int warp, line;
    alignas(16) char values[32 * 16];
};
std::vector<Pending> pending;

// --- blocks -----------------------------------------------------------------------------------

constexpr int MAX_ATOMICS = 1 << 20;  // of a thread before it suspends itself

int barrier_votes[2];  // votes at a barrier and at the one before it, by parity of the barrier
int barriers;          // number of barriers that the block has passed
std::vector<int> order;
unsigned order_number;
std::mt19937 random_numbers;

void permute(std::vector<int>& items) {
    std::iota(items.begin(), items.end(), 0);
    if (order_number == 1) std::reverse(items.begin(), items.end());
    if (order_number > 1) std::shuffle(items.begin(), items.end(), random_numbers);
}

// Called when no fiber is ready. Releases the block and returns true if all threads wait at the
// same barrier; otherwise reports the failure.
bool pass_barrier() {
    const Fiber* waiting = nullptr;
    const Fiber* ended = nullptr;
    for (size_t i = 0; i < threads; i++) {
        const Fiber& f = fibers[i];
        if (f.state == IN_WARP) {
            unsigned arrived = 0;
            for (const Pending& p : pending) {
                if (p.warp == f.warp && p.mask == f.mask) arrived = p.arrived;
            }
            fail("line %d: %s waits for lanes %08x of its warp, of which only %08x come", f.line,
                 position(f).c_str(), f.mask, arrived);
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
    barrier_votes[(barriers + 1) & 1] = 0;  // for the next barrier; this one's are read later
    return true;
}

// Resumes each ready fiber of order[begin .. end) once. Returns false if none was ready.
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

// Resumes all ready fibers. In forward and reverse order a warp runs as far as it can before the
// next one starts; in a random order all warps advance together. Returns false if none was ready.
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
    for (Fiber& f : fibers) forget_copies(f);
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

// Checks the limits of compute capability 7.5 and above, as the driver does.
void check_launch(dim3 grid, dim3 block, size_t max_threads, size_t dynamic) {
    uint64_t count = uint64_t(block.x) * block.y * block.z;
    if (!count || count > MAX_THREADS || block.z > 64) {
        fail("a block of (%u, %u, %u) threads: there may be 1 to 1024, and 64 in z", block.x,
             block.y, block.z);
    } else if (count > max_threads) {
        fail("a block of %zu threads, where __launch_bounds__ promises at most %zu",
             size_t(count), max_threads);
    } else if (dynamic > MAX_SHARED) {
        fail("%zu bytes of shared memory: a block may have %zu", dynamic, MAX_SHARED);
    } else if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 ||
               grid.z > 65535) {
        fail("a grid of (%u, %u, %u) blocks: there may be 1 to 2^31 - 1 in x, 65535 in y and z",
             grid.x, grid.y, grid.z);
    }
}

}  // namespace

// --- functions that shim.h calls --------------------------------------------------------------

void barrier(int line) {
    Fiber& f = me();
    f.line = line;
    f.state = AT_BARRIER;
    suspend(f);
}

int barrier_count(int predicate, int line) {
    int slot = (barriers + 1) & 1;
    barrier_votes[slot] += predicate != 0;
    barrier(line);
    return barrier_votes[slot];
}

const char* exchange(unsigned mask, const void* value, size_t bytes, int line,
                     void (*together)(const char*)) {
    Fiber& f = me();
    size_t lanes = std::min<size_t>(32, threads - 32 * f.warp);
    unsigned there = lanes == 32 ? ~0u : (1u << lanes) - 1;
    if (!(mask >> f.lane & 1)) {
        fail("line %d: %s is not in the mask %08x that it passes", line, position(f).c_str(), mask);
    } else if (mask & ~there) {
        fail("line %d: the mask %08x names lanes that the block's %zu threads do not fill", line,
             mask, threads);
    }
    Pending* mine = nullptr;
    for (Pending& p : pending) {
        if (p.warp != f.warp || p.mask != mask) continue;
        mine = &p;
        if (p.line != line) {
            fail("line %d: %s arrives with mask %08x while others wait for it at line %d", line,
                 position(f).c_str(), mask, p.line);
        }
    }
    if (!failure.empty()) suspend(f);  // never resumed
    if (!mine) {
        pending.push_back({mask, 0, f.warp, line, {}});
        mine = &pending.back();
    }
    if (bytes) std::memcpy(mine->values + 16 * f.lane, value, bytes);
    mine->arrived |= 1u << f.lane;
    if (mine->arrived != mask) {
        f.line = line, f.mask = mask;
        f.state = IN_WARP;
        suspend(f);
        return f.values;
    }
    if (together) together(mine->values);
    for (size_t lane = 0; lane < lanes; lane++) {
        Fiber& other = fibers[32 * f.warp + lane];
        if (!(mask >> lane & 1)) continue;
        std::memcpy(other.values, mine->values, sizeof other.values);
        other.state = READY;
    }
    // Of the warp operations only __syncwarp orders memory; it exchanges no bytes.
    if (watcher && !bytes) watcher->warp_synchronised(f.warp, mask);
    *mine = pending.back();
    pending.pop_back();
    return f.values;
}

void absent_lane(int from, unsigned mask, int line) {
    fail("line %d: %s reads lane %d, which is not in the mask %08x", line, position(me()).c_str(),
         from, mask);
    suspend(me());
}

void refuse(const char* what, int line) {
    fail("line %d: %s %s", line, position(me()).c_str(), what);
    suspend(me());
}

void atomic_access(const void* at, size_t bytes, const void* after) {
    uint32_t place = place_of(after) - 1;
    if (++me().atomics > MAX_ATOMICS) {
        fail("@%x@: %s made %d atomic operations without a barrier: threads take turns here, and "
             "one that waits for another in a loop waits forever",
             place, position(me()).c_str(), MAX_ATOMICS);
        suspend(me());
    }
    if (watcher) watcher->access(ATOMIC, at, bytes, true, place);
}

void fence() {
    if (watcher) watcher->fence();
}

extern "C" void emulator_order(unsigned number) { order_number = number; }

int launch(void (*kernel_)(void*), void* arguments, dim3 grid, dim3 block, size_t max_threads,
           size_t dynamic, char* error, size_t length) {
    failure.clear();
    kernel = kernel_, kernel_arguments = arguments;
    grid_size = grid, block_size = block;
    check_launch(grid, block, max_threads, dynamic);
    if (failure.empty()) {
        Denormals mode(/*are_zero=*/true);
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
        current = nullptr;  // no kernel runs any more
        sigaction(SIGSEGV, &fault_before, nullptr);
        sigaction(SIGBUS, &bus_before, nullptr);
        sigaltstack(&stack_before, nullptr);
    }
    snprintf(error, length, "%s", failure.c_str());
    return !failure.empty();
}

}  // namespace emulator
